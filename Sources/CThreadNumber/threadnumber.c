// SPDX-License-Identifier: Apache-2.0

#include "CThreadNumber.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

_Thread_local int rf_thread_number_after;

// A bit for each number that a thread has.
static _Atomic uint64_t taken;
static _Atomic unsigned shared;
static pthread_key_t key;
static int has_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

// The thread ends. Should it ask again while it does, it asks under a number that another may have by then: that is allowed.
static void give_back(void *after) { atomic_fetch_and(&taken, ~(UINT64_C(1) << ((intptr_t)after - 1))); }

static void make_key(void) { has_key = pthread_key_create(&key, give_back) == 0; }

int rf_thread_number_make(void) {
    pthread_once(&once, make_key);
    uint64_t seen = atomic_load(&taken);
    while (has_key && ~seen) {
        int number = __builtin_ctzll(~seen);
        if (!atomic_compare_exchange_weak(&taken, &seen, seen | UINT64_C(1) << number)) continue;
        if (pthread_setspecific(key, (void *)(intptr_t)(number + 1)) != 0) {
            give_back((void *)(intptr_t)(number + 1));
            break;
        }
        rf_thread_number_after = number + 1;
        return number;
    }
    int number = (int)(atomic_fetch_add(&shared, 1) % RF_THREAD_NUMBERS);
    rf_thread_number_after = number + 1;
    return number;
}
