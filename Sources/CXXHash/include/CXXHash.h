// SPDX-License-Identifier: Apache-2.0
//
// What the hash ring needs of C, all of it inline so that Swift's optimiser sees through it and nothing is linked:
//
//   rf_xxh3_64        XXH3-64 with a seed, from Debian's libxxhash-dev (BSD 2-Clause). Header only: XXH_INLINE_ALL makes
//                     every function of xxhash.h static, so programs need no libxxhash where they run.
//   rf_block_lane     which point of a block of the ring comes first at or after a position; see Ring.swift for what a
//                     block is. One comparison of sixteen numbers, for which neither Swift nor C has an operator: SSE2
//                     (every x86-64), NEON (every AArch64), and plain C.
#ifndef RINGFENCE_CXXHASH_H
#define RINGFENCE_CXXHASH_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if XXH_VERSION_NUMBER < 800
#error "XXH3 is final since xxHash 0.8.0: install a newer libxxhash-dev"
#endif

/// XXH3-64 of `length` bytes, which may be none.
static inline uint64_t rf_xxh3_64(const void *bytes, size_t length, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, length, seed);
}

/// What `rf_block_lane` answers when sixteen bits of a position are too few to tell.
enum { RF_BLOCK_UNDECIDED = -1 };

/// `block` is 16 numbers in growing order, each with its top bit flipped. Returns the place of the first that is not less
/// than `suffix`, or RF_BLOCK_UNDECIDED if one of them is equal to it. The last number must be the largest there is
/// (0xffff, that is 0x7fff with its top bit flipped).
static inline int32_t rf_block_lane_portable(const void *block, uint16_t suffix) {
    uint16_t lanes[16];
    memcpy(lanes, block, sizeof lanes);
    const uint16_t sought = (uint16_t)(suffix ^ 0x8000u);
    int32_t lane = 0;
    int equal = 0;
    for (int i = 0; i < 16; i++) {
        lane += (int16_t)lanes[i] < (int16_t)sought;
        equal |= lanes[i] == sought;
    }
    return equal ? RF_BLOCK_UNDECIDED : lane;
}

/// As `rf_block_lane_portable`, as fast as this processor can.
static inline int32_t rf_block_lane(const void *block, uint16_t suffix) {
#if defined(__SSE2__)
    // SSE2 compares signed numbers only: hence the flipped top bits.
    const __m128i sought = _mm_set1_epi16((short)(suffix ^ 0x8000u));
    const __m128i low = _mm_loadu_si128((const __m128i *)block);
    const __m128i high = _mm_loadu_si128((const __m128i *)block + 1);
    const unsigned less =
        (unsigned)_mm_movemask_epi8(_mm_packs_epi16(_mm_cmpgt_epi16(sought, low), _mm_cmpgt_epi16(sought, high)));
    const int equal =
        _mm_movemask_epi8(_mm_packs_epi16(_mm_cmpeq_epi16(sought, low), _mm_cmpeq_epi16(sought, high)));
    // The numbers grow, so the ones of `less` are its lowest bits, and at most fifteen.
    return equal ? RF_BLOCK_UNDECIDED : (int32_t)__builtin_ctz(~less);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    const int16x8_t sought = vdupq_n_s16((int16_t)(suffix ^ 0x8000u));
    const int16x8_t low = vld1q_s16((const int16_t *)block);
    const int16x8_t high = vld1q_s16((const int16_t *)block + 8);
    const uint16x8_t less = vaddq_u16(vcltq_s16(low, sought), vcltq_s16(high, sought));
    const uint16x8_t equal = vorrq_u16(vceqq_s16(low, sought), vceqq_s16(high, sought));
    // Each true is 0xffff, which is minus one.
    return vmaxvq_u16(equal) ? RF_BLOCK_UNDECIDED : (int32_t)(uint16_t)(0u - vaddvq_u16(less));
#else
    return rf_block_lane_portable(block, suffix);
#endif
}

#endif
