/* Wide instructions are chosen at run time; a build for another architecture has none. */
#include <stddef.h>

#include "kernels/cpu/ic_cpu_vec.h"

const ic_cpu_vec *ic_cpu_vec_avx2(void)
{
    return NULL;
}

const ic_cpu_vec *ic_cpu_vec_avx512(void)
{
    return NULL;
}
