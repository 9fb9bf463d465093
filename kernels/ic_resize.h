/* ic_resize: pictures of 8-bit RGB made smaller or larger, bit for bit as torchvision's v2 resize
 * does it on uint8 tensors on a CPU (interpolation bicubic, antialias on), which is what the
 * processors of transformers use.
 *
 * The method, from the behaviour of PyTorch's upsample_bicubic2d_aa and of Pillow: a separable
 * filter, Keys' cubic with a = -0.5, stretched by the scale when shrinking; along x first, then
 * along y, with 8 bits in between; a row of weights sums to 1, is held in 16-bit integers whose
 * binary point lies as far left as the largest weight allows, and sums are rounded half up and
 * clamped to 0..255. A direction whose size stays the same is skipped.
 */
#ifndef IC_RESIZE_H
#define IC_RESIZE_H

#include <stdint.h>

#include "base/ic_err.h"
#include "kernels/ic_device.h"

/* src [sh, sw, 3] -> dst [dh, dw, 3], rows without padding. Borrows both; pure; thread-safe.
 * IC_EINVAL for sides outside 1..16384, IC_ENOMEM. */
IC_MUST_CHECK int ic_resize_rgb(const uint8_t *src, int sw, int sh, uint8_t *dst, int dw, int dh,
                                ic_error *e);

/* The same bits, by the device where it can (a GPU, and pictures within ic_ops_bounds.picture_bytes
 * on their way), beside what it computes; else as above. Any thread. */
IC_MUST_CHECK int ic_device_resize_rgb(ic_device *d, const uint8_t *src, int sw, int sh,
                                       uint8_t *dst, int dw, int dh, ic_error *e);

#endif
