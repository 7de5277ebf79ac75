// SPDX-License-Identifier: Apache-2.0
//
// A small number for each thread, so that what is kept once for each thread can be found in an array. Swift has no variable of a
// thread's own. A thread's number is free again when the thread ends, and the lowest free one is given next: a pool whose
// threads come and go does not use the numbers up.
#ifndef RINGFENCE_CTHREADNUMBER_H
#define RINGFENCE_CTHREADNUMBER_H

#ifdef __cplusplus
extern "C" {
#endif

#define RF_THREAD_NUMBERS 64

/// One more than the thread's number; 0: it has none yet.
extern _Thread_local int rf_thread_number_after;

/// Gives the thread a number.
int rf_thread_number_make(void);

/// 0 to 63. Different for any two threads that live, as long as there are no more than 64 that ask; else some share one.
static inline int rf_thread_number(void) {
    int after = rf_thread_number_after;
    return after ? after - 1 : rf_thread_number_make();
}

#ifdef __cplusplus
}
#endif

#endif
