"""The prose: public-domain novels, as LF text without the byte-order mark. The other books are for measuring."""
import os

TRAIN_BOOKS = ["Stevenson_Treasure_1883.txt", "Burnett_Garden_1911.txt", "Dickens_Oliver_1839.txt", "Hardy_Tess_1891.txt",
               "Cbronte_Jane_1847.txt"]


def read_book(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8-sig", newline="") as f:
        return f.read().replace("\r\n", "\n")
