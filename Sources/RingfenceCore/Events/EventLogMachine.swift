// SPDX-License-Identifier: Apache-2.0
//
// The event log as one process receives it, put in order: any number of subscribers read from this one machine.
//
// Events come in two ways. Published messages are fast, but may be lost, late or doubled, and those sent during a
// reconnection are missing altogether. Pages, read from the stream, are slow and reliable. So a message that follows
// the last one is taken as it is; everything else only says that there is something to read:
//
//   - a message beyond the next one waits, and the gap before it is read from the stream;
//   - a message of another generation is not taken at all: only a page tells how generations follow each other;
//   - silence is checked: a page is asked for a second after the last sign of life, so a lost last message is late, not
//     lost. Answers of other scripts, which carry the log's head, make it milliseconds (`heard`).
//
// The newest events stay in a ring, and subscribers are nothing but positions: one that is in the ring reads there, one
// that is too far behind reads pages of its own until it is. So a slow subscriber costs no memory, holds nobody up, and
// loses nothing that the stream still keeps.
//
// Pages are asked for one at a time. An answer may be older than messages that came meanwhile; so the log is only held
// to have stepped back when it does not contain the position at which the page was ASKED for. Each such break, and each
// new generation, begins an era: positions of subscribers that were good in an earlier era are judged again.

package struct EventLogMachine<Entry: LogEntry>: Sendable {
    package struct Settings: Sendable {
        /// How many events the ring keeps, and how many bytes of them at most.
        package var capacity = 1024
        package var capacityBytes = 4 << 20
        /// How many messages that came too early are kept.
        package var pendingMaximum = 1024
        /// Without a sign of life for this long, it looks.
        package var idle: Nanos = 1 * .second
        /// How much later than an answer that mentions it a message may come; and the time between two looks that stray
        /// messages cause in vain.
        package var grace: Nanos = 50 * .millisecond
        /// After a failure.
        package var retry: Nanos = 100 * .millisecond
        package init() {}
    }

    package enum Action: Equatable {
        case none
        /// Read the page behind this position; nil: only the head. `answered` or `failed` must follow.
        case fetch(after: LogPosition?)
    }

    /// What a subscriber finds.
    package enum Read {
        /// What follows its position, in order. It is good in this era.
        case entries([Entry], era: Int)
        /// Nothing yet. Read again once `revision` is another.
        case wait(era: Int)
        /// It is not for the ring to say: read a page from Redis.
        case ask
    }

    /// What has happened so far.
    package struct Counts: Equatable, Sendable {
        /// Messages that were missing when a later one came, or when silence was checked.
        package var gaps = 0
        /// Events that came from the stream and not as a message.
        package var replayed = 0
        /// Messages that had come before.
        package var repeated = 0
        /// Messages of another generation, or not of ours at all.
        package var strays = 0
        /// The log stepped back behind what was heard, or is another.
        package var rollbacks = 0
        /// The log was too far ahead to follow, or had a hole.
        package var jumps = 0
        package init() {}
    }

    private struct Pending {
        var entry: Entry
        var serial: Int
    }

    private let settings: Settings

    /// Counts what makes positions doubtful. Never goes back, also when the machine is stopped and started.
    package private(set) var era = 0
    /// Changes whenever a waiting subscriber might find something else.
    package private(set) var revision = 0
    package private(set) var counts = Counts()
    /// Messages come, and nothing is known to be missing.
    package var isLive: Bool { isSubscribed && hasCaughtUp && inFlight == nil }
    /// Behind the last event in order; nil before anything is known.
    package private(set) var position: LogPosition?
    /// The last event that is known to exist.
    package private(set) var newest: Int64 = 0

    /// The log as the last page showed it.
    private var head: LogHead?
    /// The log as the page showed it that began the era.
    private var eraHead: LogHead?

    // The ring holds `ringFirst` to `position.sequence`; `ringBefore` is the position before the first.
    private var ring: [Entry?] = []
    private var ringFirst: Int64 = 1
    private var ringBytes = 0
    private var ringBefore: LogPosition?

    private var pending: [Int64: Pending] = [:]
    private var serial = 0

    private var isSubscribed = false
    private var hasCaughtUp = false
    private var isRunning = false
    /// The page that is being read: asked at this position, and what was pending and shown then.
    private var inFlight: (asked: LogPosition?, serial: Int, shown: [String: Int64])?
    /// How far answers showed the log to be, by generation, where we were not yet. A page asked for later must contain
    /// it.
    private var shown: [String: Int64] = [:]
    /// Something was heard that the page being read may not show.
    private var again = false
    /// When to look because nothing was heard for long.
    private var idleAt: Nanos = .never
    /// Somebody said that the log is there; when to look if it is not here by itself.
    private var suspect: LogPosition?
    private var suspectAt: Nanos = .never
    /// A look found nothing new: until then strays cause no other.
    private var quietUntil: Nanos = .min

    package init(_ settings: Settings = Settings()) { self.settings = settings }

    /// When `tick` has something to do.
    package var wakeAt: Nanos { inFlight == nil && isRunning ? min(idleAt, suspectAt) : .never }

    // MARK: What happens to it

    /// Somebody follows.
    package mutating func start() -> Action {
        guard !isRunning else { return .none }
        isRunning = true
        return fetch()
    }

    /// Nobody follows any more; what is kept is let go.
    package mutating func stop() {
        isRunning = false
        isSubscribed = false
        hasCaughtUp = false
        (inFlight, again) = (nil, false)
        (idleAt, suspect, suspectAt) = (.never, nil, .never)
        (position, head, eraHead) = (nil, nil, nil)
        clearRing(before: nil)
        (pending, shown) = ([:], [:])
        newest = 0
        era += 1
        revision += 1
    }

    /// Messages come from now on; what was published before was missed.
    package mutating func subscribed() -> Action {
        isSubscribed = true
        return want()
    }

    /// No messages come any more.
    package mutating func disconnected() { isSubscribed = false }

    /// A message on the channel; nil: one that cannot be read.
    package mutating func received(_ entry: Entry?, now: Nanos) -> Action {
        guard isRunning, let position, let head else { return want() }
        // A new generation, or a server that does not know that it is deposed: a page tells.
        guard let entry, entry.position.generation == head.generation else {
            counts.strays += 1
            return suspect(entry?.position ?? LogPosition.start, now: now, at: max(now, quietUntil))
        }
        let sequence = entry.position.sequence
        if sequence <= position.sequence {
            counts.repeated += 1
            return .none
        }
        newest = max(newest, sequence)
        if sequence == position.sequence + 1 {
            append(entry)
            drain()
            if hasCaughtUp { idleAt = now.adding(settings.idle) }
            if isSettled(suspect) { (suspect, suspectAt) = (nil, .never) }
            return .none
        }
        counts.gaps += 1
        if pending.count < settings.pendingMaximum {
            serial += 1
            pending[sequence] = Pending(entry: entry, serial: serial)
        }
        return want()
    }

    /// Somebody else's answer showed the head of the log. Its message may be on its way still.
    package mutating func heard(_ other: LogPosition, now: Nanos) -> Action {
        if isRunning, !isSettled(other) { shown[other.generation] = max(other.sequence, shown[other.generation] ?? 0) }
        return suspect(other, now: now, at: now.adding(settings.grace))
    }

    package mutating func tick(now: Nanos) -> Action {
        guard isRunning, inFlight == nil, now >= min(idleAt, suspectAt) else { return .none }
        return fetch()
    }

    /// The page could not be read.
    package mutating func failed(now: Nanos) {
        guard isRunning, inFlight != nil else { return }
        (inFlight, again) = (nil, false)
        hasCaughtUp = false
        idleAt = now.adding(settings.retry)
    }

    /// The page that `fetch` asked for.
    package mutating func answered(_ page: LogPage<Entry>, now: Nanos) -> Action {
        guard isRunning, let (asked, askedSerial, askedShown) = inFlight else { return .none }
        inFlight = nil
        shown = shown.filter { generation, sequence in sequence > askedShown[generation] ?? 0 }
        let before = (revision: revision, era: era)
        let former = head
        head = page.head
        if let former, let position, let asked {
            if !isContained(position, asked: asked, in: page.head) {
                counts.rollbacks += 1
                adopt(page.head)
            } else {
                let isLost = askedShown.contains { !page.head.contains(LogPosition(generation: $0, sequence: $1)) }
                if isLost { counts.rollbacks += 1 }
                if isLost || former.generation != page.head.generation { beginEra(page.head) }
                follow(page)
            }
        } else {
            adopt(page.head)
        }
        drain()
        // What was heard before the page was asked for is in the page, or it is not in this log.
        let reached = position?.sequence ?? 0
        pending = pending.filter { sequence, waiting in
            sequence > reached && (waiting.serial > askedSerial || sequence <= page.head.sequence)
        }
        newest = max(reached, page.head.sequence)
        let isVain = before == (revision, era)
        quietUntil = isVain ? now.adding(settings.grace) : now
        hasCaughtUp = reached >= page.head.sequence && pending.isEmpty && !again
        guard hasCaughtUp else { return fetch() }
        idleAt = now.adding(settings.idle)
        if suspect != nil, !isSettled(suspect) { suspectAt = now.adding(settings.grace) } else { suspect = nil }
        return .none
    }

    // MARK: What subscribers read

    /// What follows `reader`, which was good in `readerEra`.
    package func read(after reader: LogPosition, era readerEra: Int, limit: Int) -> Read {
        guard let position, let ringBefore else { return .ask }
        if readerEra != era {
            // Good then and in the log that began this era: good now. If not, Redis has the last word, because the
            // reader may have read further than we had.
            guard let eraHead, eraHead.contains(reader) else { return .ask }
        }
        if reader.sequence > position.sequence { return .wait(era: era) }
        if reader.sequence == position.sequence {
            return reader.generation == position.generation ? .wait(era: era) : .ask
        }
        guard reader.sequence >= ringFirst - 1 else { return .ask }
        let known =
            reader.sequence == ringFirst - 1 ? ringBefore.generation : ring[slot(reader.sequence)]?.position.generation
        guard known == reader.generation else { return .ask }
        let last = min(position.sequence, reader.sequence + Int64(limit))
        return .entries((reader.sequence + 1...last).compactMap { ring[slot($0)] }, era: era)
    }

    // MARK: Inside

    /// Something is missing.
    private mutating func want() -> Action {
        guard isRunning else { return .none }
        guard inFlight == nil else {
            again = true
            return .none
        }
        return fetch()
    }

    /// Something may be missing.
    private mutating func suspect(_ other: LogPosition, now: Nanos, at: Nanos) -> Action {
        guard isRunning, !isSettled(other) else { return .none }
        suspect = other
        guard inFlight == nil else { return .none }
        suspectAt = min(suspectAt, at)
        return tick(now: now)
    }

    private func isSettled(_ other: LogPosition?) -> Bool {
        guard let other, let head, let position else { return false }
        return other.generation == head.generation && other.sequence <= position.sequence
    }

    private mutating func fetch() -> Action {
        inFlight = (position, serial, shown)
        again = false
        (idleAt, suspect, suspectAt) = (.never, nil, .never)
        return .fetch(after: position)
    }

    /// Whether `position` is in the log of an answer to a question asked at `asked`.
    private func isContained(_ position: LogPosition, asked: LogPosition, in head: LogHead) -> Bool {
        // Of the same generation: messages may have brought us beyond the answer, but not beyond the question.
        if position.generation == head.generation { return asked.sequence <= head.sequence }
        return head.contains(position)
    }

    private mutating func beginEra(_ head: LogHead) {
        era += 1
        revision += 1
        eraHead = head
        pending = [:]
    }

    /// Starts anew at the end of the log.
    private mutating func adopt(_ head: LogHead) {
        beginEra(head)
        position = head.position
        clearRing(before: head.position)
    }

    private mutating func follow(_ page: LogPage<Entry>) {
        guard var reached = position?.sequence, reached < page.head.sequence else { return }
        let isTooFar = page.head.sequence - reached > Int64(settings.capacity)
        if !isTooFar {
            for entry in page.entries where entry.position.sequence == reached + 1 {
                append(entry)
                reached += 1
                counts.replayed += 1
            }
        }
        let isStuck = page.isBroken || page.head.first > reached + 1
        guard isTooFar || (isStuck && reached < page.head.sequence) else { return }
        // Subscribers read on their own what lies between, or are told that it is not there any more.
        counts.jumps += 1
        position = page.head.position
        clearRing(before: page.head.position)
        revision += 1
    }

    private mutating func append(_ entry: Entry) {
        if ring.isEmpty { ring = Array(repeating: nil, count: settings.capacity) }
        let count = (position?.sequence ?? 0) - ringFirst + 1
        if count >= Int64(settings.capacity) { dropFirst() }
        position = entry.position
        ring[slot(entry.position.sequence)] = entry
        ringBytes += entry.byteCount
        while ringBytes > settings.capacityBytes, ringFirst < entry.position.sequence { dropFirst() }
        revision += 1
    }

    private mutating func drain() {
        while let position, let next = pending.removeValue(forKey: position.sequence + 1) {
            if next.entry.position.generation == head?.generation { append(next.entry) }
        }
    }

    private mutating func dropFirst() {
        guard let entry = ring[slot(ringFirst)] else { return }
        ringBytes -= entry.byteCount
        ringBefore = entry.position
        ring[slot(ringFirst)] = nil
        ringFirst += 1
    }

    private mutating func clearRing(before: LogPosition?) {
        ring = []
        ringBytes = 0
        ringBefore = before
        ringFirst = (before?.sequence ?? 0) + 1
    }

    private func slot(_ sequence: Int64) -> Int { Int(sequence % Int64(settings.capacity)) }
}
