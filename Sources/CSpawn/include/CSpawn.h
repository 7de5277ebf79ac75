// SPDX-License-Identifier: Apache-2.0
//
// Starts a program with what posix_spawn cannot do: make the child die with its parent.
//
// Between fork and exec only async-signal-safe calls are allowed, which rules out Swift: its runtime may allocate or
// take a lock at any line. Hence this one function in C. On Linux the child asks for `parent_death_signal` and then
// looks whether the parent is still there, because it may have died before the request. The kernel takes "parent" to
// mean the THREAD that forked: the caller must keep that thread alive as long as the child (ChildProcess.swift does).
#ifndef RINGFENCE_CSPAWN_H
#define RINGFENCE_CSPAWN_H

#include <sys/types.h>

typedef struct {
    /// argv, ended by NULL; argv[0] is looked up in PATH unless it holds a slash.
    char *const *arguments;
    /// NAME=value, ended by NULL.
    char *const *environment;
    /// Working directory; NULL: the parent's.
    const char *directory;
    /// Descriptors that become 0, 1 and 2; -1: the parent's own.
    int input, output, error;
    /// One further descriptor that stays open in the child; -1: none. All others are closed on exec.
    int kept;
    /// Not 0: the child leads a process group of its own.
    int group;
    /// Not 0: SIGHUP stays ignored, as nohup wants it; all other signals are set to their defaults.
    int ignores_hangup;
    /// The child's umask; -1: the parent's.
    int file_mask;
    /// The signal the child gets when the spawning thread ends (Linux); 0: none.
    int parent_death_signal;
} ringfence_spawn_options;

/// Returns 0 and the child's id, or the errno of the step that failed, in the parent or in the child (exec included).
int ringfence_spawn(const ringfence_spawn_options *options, pid_t *child);

/// Makes this process the parent of every descendant whose own parent ends (Linux). Returns 0 or an errno.
int ringfence_become_subreaper(void);

/// Sends a signal to every descendant of this process, but for those in the group `except_group` (0: none), in whatever
/// group or session they are. A descendant that may not be signalled is told in `refused`. Returns how many were told.
/// What is started meanwhile may be missed: repeat it until none is left.
int ringfence_signal_descendants(int number, pid_t except_group, pid_t *refused);

/// Whether anything is left of what this process started; what it had before it became a subreaper does not count.
int ringfence_has_descendants(void);

/// An ended child of this process that waits to be reaped; 0: none has ended; -1: there are no children at all.
pid_t ringfence_ended_child(void);

#endif
