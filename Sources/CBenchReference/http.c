// SPDX-License-Identifier: Apache-2.0
//
// A load of HTTP lock pairs: N keep-alive connections, each acquiring and releasing a lock of its own, one request at
// a time. Written on bare sockets because client and service share the machine: each microsecond the client burns is
// taken from the service that is measured. It understands just the HTTP/1.1 that a service answers with: a status
// line, headers, and a body by Content-Length or chunked. Anything else ends the run with a problem.

#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { answer_size = 8192, request_size = 2048, token_size = 256 };

/// One keep-alive connection and the lock it works on.
struct connection {
    int descriptor;
    int number;
    int holds;
    int done;
    size_t received;
    char lock_token[token_size];
    char answer[answer_size];
};

/// Connects to `host`:`port`; -1 if nobody is there.
static int open_socket(const char *host, int port) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, service, &hints, &found) != 0) return -1;
    int descriptor = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (descriptor >= 0 && connect(descriptor, found->ai_addr, found->ai_addrlen) != 0) {
        close(descriptor);
        descriptor = -1;
    }
    freeaddrinfo(found);
    if (descriptor >= 0) {
        int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return descriptor;
}

/// Writes a whole request with a JSON body into `text`. Returns its length, or 0 if it does not fit.
static size_t write_request(char text[request_size], const char *token, const char *method, const char *path,
                            const char *body) {
    int length = snprintf(text, request_size,
                          "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          "%s%s%sContent-Length: %zu\r\n\r\n%s",
                          method, path, token != NULL ? "Authorization: Bearer " : "", token != NULL ? token : "",
                          token != NULL ? "\r\n" : "", strlen(body), body);
    return length > 0 && length < request_size ? (size_t)length : 0;
}

/// Sends all of `text`. A request is far smaller than a socket's buffer, so this does not wait in practice.
static int send_all(int descriptor, const char *text, size_t length) {
    while (length > 0) {
        ssize_t sent = send(descriptor, text, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return -1;
        text += sent;
        length -= (size_t)sent;
    }
    return 0;
}

/// The status of the answer in `answer` (NUL-ended), 0 while it is not whole, -1 if it is not HTTP we understand.
static int complete_status(const char *answer, size_t received) {
    const char *end = strstr(answer, "\r\n\r\n");
    if (end == NULL) return 0;
    if (strncmp(answer, "HTTP/1.1 ", 9) != 0) return -1;
    int status = atoi(answer + 9);
    size_t head = (size_t)(end - answer) + 4;
    for (const char *line = strstr(answer, "\r\n"); line != NULL && line < end; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0) {
            return received >= head + strtoul(line + 17, NULL, 10) ? status : 0;
        }
        if (strncasecmp(line + 2, "transfer-encoding: chunked", 26) == 0) {
            return strcmp(answer + received - 5, "0\r\n\r\n") == 0 ? status : 0;
        }
    }
    return status == 204 ? status : -1;
}

/// Copies the value of `"token":"…"` out of the answer. Returns 0, or -1 if there is none.
static int take_token(struct connection *connection) {
    const char *start = strstr(connection->answer, "\"token\":");
    if (start == NULL || (start = strchr(start + 8, '"')) == NULL) return -1;
    const char *end = strchr(start + 1, '"');
    if (end == NULL || (size_t)(end - start) > sizeof connection->lock_token) return -1;
    memcpy(connection->lock_token, start + 1, (size_t)(end - start) - 1);
    connection->lock_token[end - start - 1] = 0;
    return strchr(connection->lock_token, '\\') == NULL ? 0 : -1;
}

/// Sends the connection's next request: a release if it holds its lock, an acquire if not.
static int send_next(struct connection *connection, const char *token) {
    char path[64];
    char body[token_size + 64];
    char request[request_size];
    snprintf(path, sizeof path, "/v1/locks/bench-%d/%s", connection->number, connection->holds ? "release" : "acquire");
    if (connection->holds) {
        snprintf(body, sizeof body, "{\"token\":\"%s\"}", connection->lock_token);
    } else {
        snprintf(body, sizeof body, "{\"owner\":\"bench\",\"ttlMs\":10000,\"waitMs\":0}");
    }
    connection->received = 0;
    size_t length = write_request(request, token, "POST", path, body);
    return length == 0 ? -1 : send_all(connection->descriptor, request, length);
}

/// Reads what came for the connection and takes its next step. Returns -1 with the problem set when the run has to end.
static int advance(struct connection *connection, const char *token, int stopping, reference_result *result) {
    ssize_t count = recv(connection->descriptor, connection->answer + connection->received,
                         answer_size - 1 - connection->received, 0);
    if (count <= 0) {
        snprintf(result->problem, problem_size, "the service closed a connection");
        return -1;
    }
    connection->received += (size_t)count;
    connection->answer[connection->received] = 0;
    int status = complete_status(connection->answer, connection->received);
    if (status == 0 && connection->received < answer_size - 1) return 0;
    if (status < 200 || status > 299 || (!connection->holds && take_token(connection) != 0)) {
        snprintf(result->problem, problem_size, "%s was answered with %.160s", connection->holds ? "release" : "acquire",
                 connection->answer);
        return -1;
    }
    result->pairs += (uint64_t)connection->holds;
    connection->holds = !connection->holds;
    connection->done = stopping && !connection->holds;
    if (!connection->done && send_next(connection, token) != 0) {
        snprintf(result->problem, problem_size, "cannot send to the service: %s", strerror(errno));
        return -1;
    }
    return 0;
}

/// Turns the loop until every connection is done, or one has a problem.
static void turn(struct connection *all, struct pollfd *descriptors, int connections, const char *token, double until,
                 reference_result *result) {
    int busy = connections;
    while (busy > 0) {
        if (poll(descriptors, (nfds_t)connections, 5000) <= 0) {
            snprintf(result->problem, problem_size, "the service did not answer for 5 s");
            return;
        }
        int stopping = reference_now() >= until;
        for (int index = 0; index < connections; index += 1) {
            if (descriptors[index].revents == 0) continue;
            if (advance(&all[index], token, stopping, result) != 0) return;
            if (all[index].done) {
                descriptors[index].fd = -1;
                busy -= 1;
            }
        }
    }
}

int reference_run_http(const char *host, int port, const char *token, int connections, double seconds,
                       reference_result *result) {
    memset(result, 0, sizeof *result);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct pollfd *descriptors = calloc((size_t)connections, sizeof *descriptors);
    int opened = 0;
    while (all != NULL && descriptors != NULL && opened < connections) {
        int descriptor = open_socket(host, port);
        if (descriptor < 0) break;
        all[opened].descriptor = descriptor;
        all[opened].number = opened;
        descriptors[opened] = (struct pollfd){.fd = descriptor, .events = POLLIN, .revents = 0};
        opened += 1;
    }
    if (opened < connections) {
        snprintf(result->problem, problem_size, "cannot connect to %s:%d: %s", host, port, strerror(errno));
    } else {
        double start = reference_now();
        double cpu = reference_thread_cpu();
        int sent = 0;
        while (sent < connections && send_next(&all[sent], token) == 0) sent += 1;
        if (sent < connections) {
            snprintf(result->problem, problem_size, "cannot send to the service: %s", strerror(errno));
        } else {
            turn(all, descriptors, connections, token, start + seconds, result);
        }
        result->seconds = reference_now() - start;
        result->cpu_seconds = reference_thread_cpu() - cpu;
    }
    for (int index = 0; index < opened; index += 1) close(all[index].descriptor);
    free(descriptors);
    free(all);
    return result->problem[0] == 0 ? 0 : -1;
}

int reference_http_request(const char *host, int port, const char *token, const char *method, const char *path,
                           const char *body) {
    char request[request_size];
    char answer[answer_size];
    size_t length = write_request(request, token, method, path, body);
    int descriptor = length > 0 ? open_socket(host, port) : -1;
    if (descriptor < 0) return 0;
    struct timeval patience = {.tv_sec = 1, .tv_usec = 0};
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    size_t received = 0;
    int status = send_all(descriptor, request, length) == 0 ? 0 : -1;
    while (status == 0 && received < answer_size - 1) {
        ssize_t count = recv(descriptor, answer + received, answer_size - 1 - received, 0);
        if (count <= 0) break;
        received += (size_t)count;
        answer[received] = 0;
        status = complete_status(answer, received);
    }
    close(descriptor);
    return status > 0 ? status : 0;
}
