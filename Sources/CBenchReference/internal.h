// SPDX-License-Identifier: Apache-2.0
#ifndef RINGFENCE_CBENCHREFERENCE_INTERNAL_H
#define RINGFENCE_CBENCHREFERENCE_INTERNAL_H

#include "CBenchReference.h"

#include <hiredis/hiredis.h>

/// The size of every `problem` text.
enum { problem_size = 256 };

/// Connects, logs in and selects the database; NULL with `problem` set if that failed.
redisContext *reference_connect(const reference_address *address, char *problem);

/// Seconds on the monotonic clock.
double reference_now(void);

/// User and system seconds of the calling thread.
double reference_thread_cpu(void);

/// Writes the next nonce: 16 hexadecimal digits, unlike all others of this process.
void reference_nonce(char text[17]);

#endif
