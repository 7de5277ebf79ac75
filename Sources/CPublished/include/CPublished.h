// SPDX-License-Identifier: Apache-2.0
//
// One reference to a Swift object that many threads read and few replace. In C, because the reader's three steps (say that
// one is reading, load, retain) must stay in their order, and Swift's optimizer is free to move a retain: it counts
// references, not readers. See Published.swift for the protocol.
#ifndef RINGFENCE_CPUBLISHED_H
#define RINGFENCE_CPUBLISHED_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rf_published rf_published;

/// With its first object, of which it takes over one reference. NULL: out of memory.
rf_published *rf_published_make(void *object);

/// The object, with one more reference for the caller. Waits for nobody: five atomic operations, whatever others do.
void *rf_published_load(rf_published *published);

/// Puts another object in its place, whose reference it takes over; returns the old one, whose reference is the caller's, but
/// which readers may be about to retain.
void *rf_published_exchange(rf_published *published, void *object);

/// Sends the readers that come from now on to the other counter.
void rf_published_flip(rf_published *published);

/// How many readers are counted by counter 0 or 1 at this moment.
intptr_t rf_published_readers(rf_published *published, int counter);

/// Frees it and returns its last object. Nobody may be reading.
void *rf_published_destroy(rf_published *published);

#ifdef __cplusplus
}
#endif

#endif
