// SPDX-License-Identifier: Apache-2.0

/// The keys of a namespace. A class, because every call carries it.
final class Keyspace: Sendable {
    let namespace: String
    let flavour: ScriptFlavour
    let prefix: String
    let lock: String
    let fence: String
    let queue: String
    let audit: String
    /// A key that never exists, among the KEYS of every script but renew.lua. While a Cluster moves the slot key by
    /// key, a node refuses a script before it runs only where one of its KEYS is not there: a script that finds them
    /// all runs, and fails half done at the first key that it has deleted or is to make. With this one in its KEYS no
    /// script runs before the move is over. renew.lua neither makes nor deletes what others need, so a lease is renewed
    /// meanwhile until its own keys have moved.
    let absent: String
    /// The names of a waiter for several, by its nonce.
    let place: String
    /// Since when a process owes Redis an answer.
    let unanswered: String
    /// Member by lease end, in the group's time.
    let leases: String
    /// Member -> record.
    let members: String
    /// A group's version and time.
    let state: String
    /// What is fixed when a group is made.
    let policy: String
    /// Candidate -> what it says of itself with each beat.
    let candidates: String
    /// Of a large group: member -> version of its last change.
    let changes: String
    /// Of a large group: who is gone -> since which version.
    let gone: String
    /// The names of all groups.
    let groups: String
    /// The event log: a stream, and the channel of the same name.
    let events: String
    /// Generation and last number of the event log.
    let log: String

    init(namespace: String, flavour: ScriptFlavour = .plain) {
        self.namespace = namespace
        self.flavour = flavour
        prefix = "ringfence:{\(namespace)}:"
        lock = prefix + "lock:"
        fence = prefix + "fence:"
        queue = prefix + "queue:"
        audit = prefix + "audit"
        absent = prefix + "absent"
        place = prefix + "place:"
        unanswered = prefix + "unanswered:"
        leases = prefix + "leases:"
        members = prefix + "members:"
        state = prefix + "state:"
        policy = prefix + "policy:"
        candidates = prefix + "candidates:"
        changes = prefix + "changes:"
        gone = prefix + "gone:"
        groups = prefix + "groups"
        events = prefix + "events"
        log = prefix + "log"
    }

    func inbox(_ process: String) -> String { prefix + "inbox:" + process }
}
