// SPDX-License-Identifier: Apache-2.0
//
// Envoy's ring_hash (source/extensions/load_balancing_policies/ring_hash/ring_hash_lb.cc) in C: points are XXH64 of
// "<host>_<i>", a record is the hash and a shared_ptr to the host (24 bytes), and a lookup is ketama's bisection with XXH64
// of the key. Two things are left out to its advantage: the shared_ptr is not counted up and down, and there is no virtual
// call. Its ring is built as a whole at every change of the hosts, and so it is here.
//
// The bisection is Envoy's to the letter, with its two reads a step: a better one would not be the reference.

#include "CBenchReference.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdio.h>
#include <stdlib.h>

struct record {
    uint64_t hash;
    // What a std::shared_ptr is: the object and its counts.
    const uint32_t *host;
    const void *counts;
};

struct reference_ring {
    struct record *records;
    int64_t count;
    uint32_t *hosts;
};

static int by_hash(const void *one, const void *other) {
    const uint64_t a = ((const struct record *)one)->hash;
    const uint64_t b = ((const struct record *)other)->hash;
    return a < b ? -1 : a > b;
}

reference_ring *reference_ring_create(uint32_t hosts, uint32_t points) {
    reference_ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) return NULL;
    ring->count = (int64_t)hosts * points;
    ring->records = malloc(sizeof *ring->records * (size_t)(ring->count > 0 ? ring->count : 1));
    ring->hosts = malloc(sizeof *ring->hosts * (hosts > 0 ? hosts : 1));
    if (ring->records == NULL || ring->hosts == NULL) {
        reference_ring_free(ring);
        return NULL;
    }
    struct record *record = ring->records;
    for (uint32_t host = 0; host < hosts; host++) {
        ring->hosts[host] = host;
        for (uint32_t point = 0; point < points; point++) {
            char text[32];
            const int length = snprintf(text, sizeof text, "node-%u_%u", host, point);
            record->hash = XXH64(text, (size_t)length, 0);
            record->host = &ring->hosts[host];
            record->counts = &ring->hosts[host];
            record++;
        }
    }
    qsort(ring->records, (size_t)ring->count, sizeof *ring->records, by_hash);
    return ring;
}

void reference_ring_free(reference_ring *ring) {
    if (ring == NULL) return;
    free(ring->records);
    free(ring->hosts);
    free(ring);
}

static const uint32_t *choose_host(const reference_ring *ring, uint64_t h) {
    int64_t lowp = 0;
    int64_t highp = ring->count;
    int64_t midp = 0;
    while (1) {
        midp = (lowp + highp) / 2;
        if (midp == ring->count) {
            midp = 0;
            break;
        }
        const uint64_t midval = ring->records[midp].hash;
        const uint64_t midval1 = midp == 0 ? 0 : ring->records[midp - 1].hash;
        if (h <= midval && h > midval1) break;
        if (midval < h) {
            lowp = midp + 1;
        } else {
            highp = midp - 1;
        }
        if (lowp > highp) {
            midp = 0;
            break;
        }
    }
    return ring->records[midp].host;
}

uint32_t reference_ring_owner(const reference_ring *ring, const void *key, size_t length) {
    return *choose_host(ring, XXH64(key, length, 0));
}

uint64_t reference_ring_lookups(const reference_ring *ring, const uint8_t *keys, size_t length, size_t count) {
    uint64_t sum = 0;
    for (size_t key = 0; key < count; key++) sum += *choose_host(ring, XXH64(keys + key, length, 0));
    return sum;
}
