// SPDX-License-Identifier: Apache-2.0
//
// Stands in front of glibc's malloc and counts. A program that links this has these definitions in front of the library's, and
// so have all libraries it loads, Swift's among them. The bundle of all tests links it too, as it does every program it
// starts; so under the thread sanitizer, which has a malloc of its own, there is nothing here.
#include "MallocCounter.h"

#include <stddef.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_SANITIZED
#endif
#endif

#if defined(__GLIBC__) && !defined(IS_SANITIZED)

static int64_t count;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t number, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static void counted(void) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); }

void *malloc(size_t size) {
    counted();
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    counted();
    return __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) {
    counted();
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    counted();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    counted();
    *memory = __libc_memalign(alignment, size);
    return *memory == NULL ? 12 /* ENOMEM */ : 0;
}

int64_t malloc_counter_count(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }

#else

int64_t malloc_counter_count(void) { return -1; }

#endif
