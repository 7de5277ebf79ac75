// SPDX-License-Identifier: Apache-2.0
//
// The yardstick of `ringfence-bench`: what plain C reaches with the same commands on the same machine in the same
// minute. A figure of ours in operations a second says nothing on a stranger's machine; the ratio to this does.
//
// What is measured is always a *pair*: an acquire command and then a release command, by a number of logical clients
// that share one connection. The pair is data (arguments with placeholders, and what the answers must be), so the
// plain SET NX PX pair and the library's own scripts run through the very same loop. Every answer is checked: a loop
// that is fast because its commands fail would flatter itself, and us by comparison.
//
//   connection.c   connects, logs in, PING, SCRIPT LOAD
//   pairs.c        the pairs: hiredis' async API on a poll loop, and hiredis' blocking API
//   http.c         the same pairs over HTTP keep-alive connections, for the service
//   ring.c         the hash ring of Envoy

#ifndef RINGFENCE_CBENCHREFERENCE_H
#define RINGFENCE_CBENCHREFERENCE_H

#include <stddef.h>
#include <stdint.h>

/// Where Redis is: `unix_path`, or else `host` and `port`. `username`, `password`: NULL if there is none.
typedef struct {
    const char *unix_path;
    const char *host;
    int port;
    const char *username;
    const char *password;
    int database;
} reference_address;

/// A command as text arguments, ended by NULL, and what its answer must be.
///
/// In the arguments `{client}` stands for the number of the logical client, `{nonce}` for 16 hexadecimal digits that
/// are new for each pair, and `{fence}` for the fence that the acquire of this pair was answered with.
typedef struct {
    const char *const *arguments;
    /// The right answer as text: a status, a string, or an integer in decimal. NULL: any string of decimal digits;
    /// that is the fence, and is kept for `{fence}`.
    const char *expected;
} reference_command;

/// What a logical client does over and over.
typedef struct {
    reference_command acquire;
    reference_command release;
} reference_pair;

/// What a run did. `problem` is empty, or says in words why the run means nothing.
typedef struct {
    uint64_t pairs;
    double seconds;
    /// User and system time of the calling thread.
    double cpu_seconds;
    char problem[256];
} reference_result;

/// Runs pairs for about `seconds` by `clients` logical clients over one connection, on hiredis' async API.
/// Returns 0, or -1 with `problem` set. A wrong answer ends the run.
int reference_run_async(const reference_address *address, const reference_pair *pair, int clients, double seconds,
                        reference_result *result);

/// Runs pairs for about `seconds` by one client on hiredis' blocking API. Otherwise as `reference_run_async`.
int reference_run_blocking(const reference_address *address, const reference_pair *pair, double seconds,
                           reference_result *result);

/// Writes the time of each of `count` PING round trips, in nanoseconds, into `nanoseconds`. Returns 0, or -1 with
/// `problem` (256 bytes) set.
int reference_ping(const reference_address *address, uint64_t *nanoseconds, int count, char *problem);

/// Loads a script and writes its SHA-1 as 40 hexadecimal digits and a NUL. Returns 0, or -1 with `problem` set.
int reference_load_script(const reference_address *address, const char *source, char sha[41], char *problem);

/// Runs pairs of HTTP requests (acquire, release) against a Ringfence service for about `seconds`, by `connections`
/// keep-alive connections, each on a lock of its own. `token` is the bearer token or NULL. Every answer has to be a
/// success. Returns 0, or -1 with `problem` set.
int reference_run_http(const char *host, int port, const char *token, int connections, double seconds,
                       reference_result *result);

/// Sends one request with a JSON body on a connection of its own and returns the answer's status; 0 if there was no
/// answer (nobody listens yet, closed, or nothing came for a second).
int reference_http_request(const char *host, int port, const char *token, const char *method, const char *path,
                           const char *body);

/// Envoy's ring.
typedef struct reference_ring reference_ring;

/// A ring of `hosts` hosts ("node-0", …) with `points` points each; NULL when out of memory.
reference_ring *reference_ring_create(uint32_t hosts, uint32_t points);
void reference_ring_free(reference_ring *ring);

/// The number of the host that owns a key. The ring must have a point.
uint32_t reference_ring_owner(const reference_ring *ring, const void *key, size_t length);

/// Looks `count` keys of `length` bytes up; each begins a byte behind the one before it, so there must be `count + length`
/// bytes. Returns the sum of the owners' numbers. The caller takes the time.
uint64_t reference_ring_lookups(const reference_ring *ring, const uint8_t *keys, size_t length, size_t count);

#endif
