// SPDX-License-Identifier: Apache-2.0
//
// What Swift sees of hiredis: its reply reader and, for tests, its encoder.
//
// The reader's object functions changed between 0.14 (Debian 12, Ubuntu 22.04) and 1.x: createArray's count became a
// size_t, doubles, booleans and maps were added. This file gives Swift one shape for all versions, so `#if
// HIREDIS_MAJOR` appears in shim.c and nowhere else.
#ifndef RINGFENCE_CHIREDIS_H
#define RINGFENCE_CHIREDIS_H

#include <stddef.h>

#include <hiredis/hiredis.h>
#include <hiredis/read.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What a leaf of a reply is.
enum rf_leaf { RF_LEAF_STRING, RF_LEAF_STATUS, RF_LEAF_ERROR };

/// Told of every piece of a reply, depth first and in order. Each function returns 0 to refuse the reply, which ends the
/// reader with an error.
typedef struct rf_reader_events {
    int (*text)(void *owner, enum rf_leaf kind, const char *bytes, size_t length);
    int (*integer)(void *owner, long long value);
    int (*null)(void *owner);
    int (*array)(void *owner, size_t count);
} rf_reader_events;

/// What `rf_reader_next` found.
enum rf_next { RF_NEXT_MORE, RF_NEXT_REPLY, RF_NEXT_BROKEN };

typedef struct rf_reader rf_reader;

/// NULL when out of memory. `events` is copied; `owner` is passed to each of its functions.
rf_reader *rf_reader_create(const rf_reader_events *events, void *owner);
void rf_reader_free(rf_reader *reader);
/// Copies `length` bytes into the reader; 0 when it is broken or out of memory.
int rf_reader_feed(rf_reader *reader, const void *bytes, size_t length);
/// Parses up to one reply.
enum rf_next rf_reader_next(rf_reader *reader);
/// Why the reader is broken; an empty string while it is not.
const char *rf_reader_error(const rf_reader *reader);
/// Bytes fed and not parsed yet.
size_t rf_reader_pending(const rf_reader *reader);

/// hiredis' own encoder, the reference for ours: the length of the command, and its bytes in `*target` to be freed with
/// `rf_free_command`; negative when out of memory.
long long rf_format_command(char **target, int count, const char **arguments, const size_t *lengths);
void rf_free_command(char *command);

#ifdef __cplusplus
}
#endif

#endif
