// SPDX-License-Identifier: Apache-2.0
//
// One subscriber: a position, and what to do next to move on from it.
//
//      state ──> follow <──> page          `state` begins without a position, and after all that breaks the chain
//        ^         │
//        └─ reset ─┘
//
// Its view is a chain: each event it gets is the one that follows the last in the log, or a reset stands between. It
// reads from the machine of its process while that has what it needs, and otherwise from Redis; both ways end in the
// same judgement of `LogHead`.
package struct EventReaderMachine<Entry: LogEntry>: Sendable {
    package enum Step {
        /// Give these out, in order.
        case deliver([Entry])
        /// Nothing to do until the log's revision is another.
        case wait(revision: Int)
        /// Read this page from Redis; `paged` must follow.
        case page(after: LogPosition)
        /// Read the state from Redis; `stated` must follow.
        case state
    }

    /// What a state is to the subscriber.
    package enum Outcome: Equatable, Sendable {
        /// The first.
        case begin
        /// It stands for events that were not given out: so many, if that can be known.
        case reset(lost: Int64?)
        /// All is well again; nothing is to be told.
        case resume
    }

    private enum Break { case gone, trimmed, hole }

    /// Behind the last event given out, or behind what a filter left out; nil before the first state.
    package private(set) var position: LogPosition?
    private let limit: Int
    /// In which the position was good; nil: it was never judged.
    private var era: Int?
    private var broken: Break?
    /// Redis had nothing more when the log was at this revision.
    private var emptyAt: Int?

    /// - Parameter position: where to go on; nil: begin with a state.
    package init(after position: LogPosition?, limit: Int = 64) {
        self.position = position
        self.limit = limit
    }

    package mutating func step(_ log: EventLogMachine<Entry>) -> Step {
        guard let position, broken == nil else { return .state }
        guard let era else { return .page(after: position) }
        switch log.read(after: position, era: era, limit: limit) {
        case .entries(let entries, let era):
            self.era = era
            self.position = entries.last?.position ?? position
            emptyAt = nil
            return .deliver(entries)
        case .wait(let era):
            self.era = era
            return .wait(revision: log.revision)
        case .ask: return emptyAt == log.revision ? .wait(revision: log.revision) : .page(after: position)
        }
    }

    /// The page came; `era` and `revision` are those of the log when it was asked for.
    /// - Returns: what to give out.
    package mutating func paged(_ page: LogPage<Entry>, era: Int, revision: Int) -> [Entry] {
        guard let position else { return [] }
        switch page.head.judge(position) {
        case .gone: broken = .gone
        case .trimmed: broken = .trimmed
        case .good:
            self.era = era
            if let last = page.entries.last {
                self.position = last.position
                emptyAt = nil
                return page.entries
            }
            if page.isBroken {
                broken = .hole
            } else {
                // The same place under the name that the log itself gives it.
                self.position = page.head.position
                emptyAt = revision
            }
        }
        return []
    }

    /// The state came, with this head; `era` is that of the log when it was asked for.
    package mutating func stated(_ head: LogHead, era: Int) -> Outcome {
        let former = position
        let reason = broken
        self.era = era
        broken = nil
        emptyAt = nil
        // Redis has stepped back meanwhile, to where it was good.
        if let former, reason != .hole, head.judge(former) == .good { return .resume }
        position = head.position
        guard let former else { return .begin }
        return .reset(lost: head.contains(former) ? head.sequence - former.sequence : nil)
    }
}
