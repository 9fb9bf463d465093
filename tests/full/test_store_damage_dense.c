/* Every bit of every byte, every length, of what unit/test_store_damage.c takes a sample of.
 * IC_NEEDS_SERVER */
#define DAMAGE_DENSE 1
#include "unit/test_store_damage.c"
