// SPDX-License-Identifier: Apache-2.0
#ifndef RINGFENCE_MALLOCCOUNTER_H
#define RINGFENCE_MALLOCCOUNTER_H

#include <stdint.h>

/// How often memory was asked for in this process, by whomever. Counts on glibc only, elsewhere it is -1.
int64_t malloc_counter_count(void);

#endif
