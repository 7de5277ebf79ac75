// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CSpawn.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t ringfence_ended_child(void) {
    siginfo_t information = {0};
    int code;
    while ((code = waitid(P_ALL, 0, &information, WEXITED | WNOHANG | WNOWAIT)) != 0 && errno == EINTR) {}
    if (code != 0) return -1;
    return information.si_pid;
}

#ifdef __linux__

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

typedef struct {
    pid_t pid, parent, group;
    char state;
    unsigned long long start;
    int is_descendant;
} process;

// One line of /proc/PID/stat, whose second field is a name that may hold anything, parentheses too.
static int look(pid_t pid, process *found) {
    char path[32], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    char *rest = strrchr(line, ')');
    found->pid = pid;
    found->is_descendant = 0;
    return rest
        && sscanf(rest + 1, " %c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                  &found->state, &found->parent, &found->group, &found->start) == 4;
}

static int by_id(const void *one, const void *two) {
    pid_t first = ((const process *)one)->pid, second = ((const process *)two)->pid;
    return (first > second) - (first < second);
}

static process *find(process *all, size_t count, pid_t pid) {
    process key = {.pid = pid};
    return bsearch(&key, all, count, sizeof key, by_id);
}

// A number may be another's by now: the handle is taken first, and then looked whether it is the process that was seen.
static int send(const process *seen, int number) {
    int handle = (int)syscall(434 /* pidfd_open */, seen->pid, 0);
    if (handle < 0 && errno != ENOSYS && errno != EPERM) return errno;
    process now;
    int failure = 0;
    if (!look(seen->pid, &now) || now.start != seen->start) {
        failure = ESRCH;
    } else if (handle >= 0) {
        if (syscall(424 /* pidfd_send_signal */, handle, number, NULL, 0) != 0) failure = errno;
    } else if (kill(seen->pid, number) != 0) {
        failure = errno;
    }
    if (handle >= 0) close(handle);
    return failure;
}

// Children that this process had before it was this program (a script's `sidecar & exec ringfence ...`): not what it started.
static struct { pid_t pid; unsigned long long start; } inherited[64];
static int inherited_count;

static int is_inherited(const process *one) {
    for (int index = 0; index < inherited_count; index++) {
        if (inherited[index].pid == one->pid && inherited[index].start == one->start) return 1;
    }
    return 0;
}

static void note_inherited(void) {
    DIR *directory = opendir("/proc");
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        process one;
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 0 || inherited_count == 64 || !look(pid, &one) || one.parent != getpid()) continue;
        inherited[inherited_count].pid = one.pid;
        inherited[inherited_count++].start = one.start;
    }
    closedir(directory);
}

int ringfence_become_subreaper(void) {
    note_inherited();
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 ? 0 : errno;
}

int ringfence_has_descendants(void) {
    if (inherited_count == 0) return ringfence_ended_child() >= 0;
    return ringfence_signal_descendants(0, 0, NULL) != 0;
}

int ringfence_signal_descendants(int number, pid_t except_group, pid_t *refused) {
    DIR *directory = opendir("/proc");
    if (!directory) return -errno;
    process *all = NULL;
    size_t count = 0, room = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 0) continue;
        if (count == room) {
            room = room ? 2 * room : 256;
            process *larger = realloc(all, room * sizeof *all);
            if (!larger) break;
            all = larger;
        }
        if (look(pid, &all[count])) count++;
    }
    closedir(directory);
    if (count) qsort(all, count, sizeof *all, by_id);
    // A child may have a lower number than its parent: until nothing is added.
    const pid_t root = getpid();
    for (int is_changed = 1; is_changed;) {
        is_changed = 0;
        for (size_t index = 0; index < count; index++) {
            process *one = &all[index];
            if (one->is_descendant || one->pid == root) continue;
            process *parent = one->parent == root ? NULL : find(all, count, one->parent);
            if (one->parent != root && !(parent && parent->is_descendant)) continue;
            if (inherited_count && one->parent == root && is_inherited(one)) continue;
            one->is_descendant = 1;
            is_changed = 1;
        }
    }
    int told = 0;
    for (size_t index = 0; index < count; index++) {
        process *one = &all[index];
        if (!one->is_descendant || one->state == 'Z' || one->state == 'X') continue;
        if (except_group && one->group == except_group) continue;
        int failure = send(one, number);
        // One that may not be signalled is there all the same.
        if (failure == 0 || (failure == EPERM && number == 0)) told++;
        if (failure == EPERM && refused) *refused = one->pid;
    }
    free(all);
    return told;
}

#else

int ringfence_become_subreaper(void) { return ENOSYS; }
int ringfence_has_descendants(void) { return ringfence_ended_child() >= 0; }
int ringfence_signal_descendants(int number, pid_t except_group, pid_t *refused) { return 0; }

#endif
