// SPDX-License-Identifier: Apache-2.0

#include "CPublished.h"

#include <stdatomic.h>
#include <stdlib.h>

// The Swift runtime's own; every program that links this is a Swift program.
extern void *swift_retain(void *object);

struct rf_published {
    _Atomic(void *) object;
    atomic_int side;
    // Each on a cache line of its own.
    struct {
        _Alignas(64) atomic_intptr_t count;
    } readers[2];
};

rf_published *rf_published_make(void *object) {
    rf_published *published = aligned_alloc(64, sizeof(rf_published));
    if (!published) return NULL;
    atomic_init(&published->object, object);
    atomic_init(&published->side, 0);
    atomic_init(&published->readers[0].count, 0);
    atomic_init(&published->readers[1].count, 0);
    return published;
}

void *rf_published_load(rf_published *published) {
    int side = atomic_load(&published->side);
    atomic_fetch_add(&published->readers[side].count, 1);
    void *object = atomic_load(&published->object);
    swift_retain(object);
    atomic_fetch_sub(&published->readers[side].count, 1);
    return object;
}

void *rf_published_exchange(rf_published *published, void *object) {
    return atomic_exchange(&published->object, object);
}

void rf_published_flip(rf_published *published) { atomic_fetch_xor(&published->side, 1); }

intptr_t rf_published_readers(rf_published *published, int counter) {
    return atomic_load(&published->readers[counter].count);
}

void *rf_published_destroy(rf_published *published) {
    void *object = atomic_load(&published->object);
    free(published);
    return object;
}
