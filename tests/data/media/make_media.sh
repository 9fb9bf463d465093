#!/usr/bin/env bash
# Makes the small clips beside it, for tests/unit/test_media.c. Needs the ffmpeg program (written with 5.1 of Debian 12, built with
# libx264, libvpx, libaom, libmp3lame, libwebp) and Python 3. All content is synthetic. usage: make_media.sh
set -euo pipefail
cd "$(dirname "$0")"
ff() { ffmpeg -hide_banner -loglevel error -y "${@:1:$#-1}" -fflags +bitexact "${@: -1}"; }
# Picture n has the luma 20 + 7 n everywhere, so that a test can read n from any pixel.
grey() { echo "color=black:s=$1:r=$2:d=$3,format=yuv420p,geq=lum='20+7*N':cb=128:cr=128"; }
x264=(-c:v libx264 -preset medium -crf 4 -threads 1 -map_metadata -1 -flags:v +bitexact)

# 30 pictures at 10 a second, with B-frames; the index in front and at the end.
ff -f lavfi -i "$(grey 64x48 10 3)" "${x264[@]}" -bf 2 -g 10 -movflags +faststart front.mp4
ff -i front.mp4 -c copy -map_metadata -1 end.mp4
# Cut off after two thirds: with the index in front, with the index (at the end) lost.
ff -f lavfi -i "testsrc2=s=64x48:r=10:d=5" -c:v libx264 -crf 20 -g 5 -bf 2 -threads 1 -map_metadata -1 -flags:v +bitexact lost.mp4
ff -i lost.mp4 -c copy -map_metadata -1 -movflags +faststart cut.mp4
for f in lost.mp4 cut.mp4; do
  head -c $(($(stat -c %s $f) * 2 / 3)) $f > part && mv part $f
done
# Variable frame rate, clock starting at 5 s: pictures 0..9 each 0.1 s, then from 2 s on each 0.25 s.
ff -f lavfi -i "$(grey 64x48 10 2)" -vf "settb=1/1000,setpts='if(lt(N,10),5000+N*100,7000+(N-10)*250)'" -vsync passthrough -copyts \
  "${x264[@]}" -bf 2 -enc_time_base 1:1000 vfr.mkv
ff -i front.mp4 -c copy -map_metadata -1 -metadata:s:v rotate=270 turned.mp4
ff -i front.mp4 -c copy -map_metadata -1 front.ts
# Other codecs and containers.
ff -f lavfi -i "$(grey 64x48 10 1)" -c:v libvpx-vp9 -crf 10 -b:v 0 -threads 1 -map_metadata -1 -flags:v +bitexact vp9.webm
ff -f lavfi -i "$(grey 64x48 10 1)" -c:v libaom-av1 -crf 10 -b:v 0 -cpu-used 8 -threads 1 -map_metadata -1 -flags:v +bitexact av1.mp4
ff -f lavfi -i "$(grey 64x48 10 1)" "${x264[@]}" -bf 0 raw.264
# Red, as BT.709 and as BT.601 in limited range and as BT.601 in full range, each tagged.
red() { # name, y, u, v, matrix, range
  ff -f lavfi -i "color=black:s=32x32:r=2:d=1,format=yuv444p,geq=lum=$2:cb=$3:cr=$4" -c:v libx264 -qp 0 -threads 1 -map_metadata -1 \
    -flags:v +bitexact -bsf:v "h264_metadata=matrix_coefficients=$5:video_full_range_flag=$6" "$1"
}
red red_709.mp4 63 102 240 1 0
red red_601.mp4 81 90 240 6 0
red red_601_full.mp4 76 85 255 6 1
# Sound only, and sound with a cover.
ff -f lavfi -i "sine=440:d=0.3" -c:a libmp3lame -b:a 32k -map_metadata -1 sound.mp3
ff -f lavfi -i "testsrc=s=32x32:r=1:d=1" -frames:v 1 cover.png
ff -i sound.mp3 -i cover.png -map 0 -map 1 -c copy -disposition:v attached_pic -id3v2_version 3 cover.mp3
rm cover.png
# Pictures: left half red, right half blue; and a JPEG that asks to be turned (Exif orientation 6).
halves="color=red:s=24x16,format=rgb24,geq=r='255*lt(X,12)':g=0:b='255*gte(X,12)'"
ff -f lavfi -i "$halves" -frames:v 1 halves.png
ff -f lavfi -i "$halves" -frames:v 1 -c:v libwebp -lossless 1 halves.webp
ff -f lavfi -i "$halves,format=yuvj444p" -frames:v 1 -q:v 2 halves.jpg
python3 - <<'PY'
import struct, zlib
jpg = open("halves.jpg", "rb").read()
tiff = b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
app1 = b"Exif\x00\x00" + tiff
open("turned.jpg", "wb").write(jpg[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + jpg[2:])
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
open("bomb.png", "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
                             + chunk(b"IDAT", zlib.compress(bytes(100000))) + chunk(b"IEND", b""))
PY
# Things that name other files.
printf '#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nfront.mp4\n#EXT-X-ENDLIST\n' > playlist.m3u8
printf 'ffconcat version 1.0\nfile front.mp4\n' > list.ffconcat
printf 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n' > session.sdp
printf '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet><Representation id="1"><BaseURL>front.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>\n' > manifest.mpd
