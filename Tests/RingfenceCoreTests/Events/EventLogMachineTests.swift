// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

@Suite struct EventLogMachineTests {
    private typealias Machine = EventLogMachine<Numbered>

    private static func head(_ generation: String, _ sequence: Int64, first: Int64 = 1, _ forks: LogHead.Fork...)
        -> LogHead
    {
        LogHead(generation: generation, sequence: sequence, first: first, forks: forks)
    }

    private static func page(_ head: LogHead, after sequence: Int64, _ entries: [Numbered] = []) -> LogPage<Numbered> {
        LogPage(head: head, after: sequence, read: entries)
    }

    private static func numbers(_ generation: String, _ range: ClosedRange<Int64>) -> [Numbered] {
        range.map { Numbered(generation, $0) }
    }

    /// A machine that stands at `g:10` and hears.
    private static func machine(_ settings: Machine.Settings = .init()) -> Machine {
        var machine = Machine(settings)
        #expect(machine.start() == .fetch(after: nil))
        #expect(machine.answered(page(head("g", 10), after: 10), now: 0) == .none)
        #expect(machine.subscribed() == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        #expect(machine.answered(page(head("g", 10), after: 10), now: 0) == .none)
        #expect(machine.isLive)
        return machine
    }

    private static func read(_ machine: Machine, after sequence: Int64, generation: String = "g", era: Int? = nil)
        -> [Int64]?
    {
        let read = machine.read(
            after: LogPosition(generation: generation, sequence: sequence), era: era ?? machine.era, limit: 100)
        switch read {
        case .entries(let entries, _): return entries.map(\.position.sequence)
        case .wait: return []
        case .ask: return nil
        }
    }

    @Test func `messages in order are taken without a look`() {
        var machine = Self.machine()
        for sequence in 11...20 as ClosedRange<Int64> {
            #expect(machine.received(Numbered("g", sequence), now: 0) == .none)
        }
        #expect(Self.read(machine, after: 10) == Array(11...20))
        #expect(Self.read(machine, after: 15) == Array(16...20))
        #expect(Self.read(machine, after: 20) == [])
        #expect(Self.read(machine, after: 9) == nil)
        #expect(machine.counts == .init())
    }

    @Test func `a message that came before is dropped`() {
        var machine = Self.machine()
        _ = machine.received(Numbered("g", 11), now: 0)
        #expect(machine.received(Numbered("g", 11), now: 0) == .none)
        #expect(machine.received(Numbered("g", 3), now: 0) == .none)
        #expect(Self.read(machine, after: 10) == [11])
        #expect(machine.counts.repeated == 2)
    }

    @Test func `a gap is read from the stream and what came early follows it`() {
        var machine = Self.machine()
        #expect(
            machine.received(Numbered("g", 13), now: 0) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        #expect(machine.received(Numbered("g", 14), now: 0) == .none)
        #expect(Self.read(machine, after: 10) == [])
        // The page was made before 13 and 14 were.
        let answer = Self.page(Self.head("g", 12), after: 10, Self.numbers("g", 11...12))
        #expect(machine.answered(answer, now: 0) == .fetch(after: LogPosition(generation: "g", sequence: 14)))
        #expect(Self.read(machine, after: 10) == [11, 12, 13, 14])
        #expect(machine.answered(Self.page(Self.head("g", 14), after: 14), now: 0) == .none)
        #expect(machine.isLive)
    }

    @Test func `silence is checked after a second`() {
        var machine = Self.machine()
        #expect(machine.wakeAt == 1 * .second)
        _ = machine.received(Numbered("g", 11), now: 600 * .millisecond)
        #expect(machine.wakeAt == 1600 * .millisecond)
        #expect(machine.tick(now: 1500 * .millisecond) == .none)
        #expect(machine.tick(now: 1600 * .millisecond) == .fetch(after: LogPosition(generation: "g", sequence: 11)))
        _ = machine.answered(Self.page(Self.head("g", 12), after: 11, [Numbered("g", 12)]), now: 2 * .second)
        #expect(Self.read(machine, after: 11) == [12])
    }

    @Test func `what an answer mentions is looked for after a grace, unless its message comes`() {
        var machine = Self.machine()
        #expect(machine.heard(LogPosition(generation: "g", sequence: 11), now: 0) == .none)
        #expect(machine.wakeAt == 50 * .millisecond)
        _ = machine.received(Numbered("g", 11), now: 1)
        #expect(machine.wakeAt == 1 * .second + 1)
        #expect(machine.heard(LogPosition(generation: "g", sequence: 12), now: 2) == .none)
        #expect(machine.tick(now: 2 + 50 * .millisecond) == .fetch(after: LogPosition(generation: "g", sequence: 11)))
    }

    @Test func `what an answer mentions when a look is due already is looked for at once`() {
        // The timer of a busy process is late: whoever comes first asks.
        var machine = Self.machine()
        let due = 2 * Nanos.second
        #expect(
            machine.heard(LogPosition(generation: "g", sequence: 11), now: due)
                == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        _ = machine.answered(Self.page(Self.head("g", 11), after: 10, [Numbered("g", 11)]), now: due)
        #expect(Self.read(machine, after: 10) == [11])
    }

    @Test func `a fork that lost nothing goes on, one that lost something starts anew`() {
        var machine = Self.machine()
        #expect(
            machine.received(Numbered("h", 11), now: 1 * .second)
                == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        let era = machine.era
        let good = Self.head("h", 11, .init(generation: "g", last: 10))
        #expect(machine.answered(Self.page(good, after: 10, [Numbered("h", 11)]), now: 1 * .second) == .none)
        #expect(Self.read(machine, after: 10, era: era) == [11])
        #expect(machine.era > era && machine.counts.rollbacks == 0)

        _ = machine.received(Numbered("i", 11), now: 2 * .second)
        let bad = Self.head("i", 11, .init(generation: "h", last: 10), .init(generation: "g", last: 10))
        #expect(machine.answered(Self.page(bad, after: 11), now: 2 * .second) == .none)
        #expect(machine.position == LogPosition(generation: "i", sequence: 11) && machine.counts.rollbacks == 1)
        // Whoever saw h:11 must ask; whoever had seen g:10 only is where the log was then.
        #expect(Self.read(machine, after: 11, generation: "h", era: era) == nil)
        #expect(Self.read(machine, after: 10, era: era) == nil)
        #expect(Self.read(machine, after: 11, generation: "i") == [])
    }

    @Test func `an answer older than the messages that came meanwhile is no step back`() {
        var machine = Self.machine()
        #expect(machine.tick(now: 1 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        for sequence in 11...13 as ClosedRange<Int64> {
            _ = machine.received(Numbered("g", sequence), now: 1 * .second)
        }
        #expect(
            machine.answered(Self.page(Self.head("g", 11), after: 10, [Numbered("g", 11)]), now: 1 * .second) == .none)
        #expect(machine.position == LogPosition(generation: "g", sequence: 13) && machine.counts.rollbacks == 0)
        // But one that was asked for behind them is.
        #expect(machine.tick(now: 3 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 13)))
        _ = machine.answered(Self.page(Self.head("g", 11), after: 13), now: 3 * .second)
        #expect(machine.position == LogPosition(generation: "g", sequence: 11) && machine.counts.rollbacks == 1)
    }

    @Test func `a log that steps back behind what only a subscriber has read begins an era`() {
        var machine = Self.machine()
        var reader = EventReaderMachine<Numbered>(after: LogPosition(generation: "g", sequence: 10))
        _ = reader.paged(Self.page(Self.head("g", 10), after: 10), era: machine.era, revision: machine.revision)
        // It asks Redis itself and is ahead of the machine; then Redis loses that, and nobody appends anything.
        let ahead = Self.head("g", 13)
        #expect(
            reader.paged(Self.page(ahead, after: 10, Self.numbers("g", 11...13)), era: machine.era, revision: 0).count
                == 3)
        #expect(machine.heard(ahead.position, now: 0) == .none)
        guard case .wait = reader.step(machine) else {
            Issue.record("what it has read is not here yet")
            return
        }
        // An answer that is lost forgets nothing.
        #expect(machine.tick(now: 50 * .millisecond) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        machine.failed(now: 50 * .millisecond)
        let (era, revision) = (machine.era, machine.revision)
        #expect(machine.tick(now: 1 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        _ = machine.answered(Self.page(Self.head("g", 10), after: 10), now: 1 * .second)
        #expect(machine.era > era && machine.revision != revision && machine.counts.rollbacks == 1)
        guard case .page = reader.step(machine) else {
            Issue.record("it must ask")
            return
        }
        // It is told once.
        #expect(machine.tick(now: 3 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        _ = machine.answered(Self.page(Self.head("g", 10), after: 10), now: 3 * .second)
        #expect(machine.counts.rollbacks == 1)
    }

    @Test func `what an answer shows while a page is read is no step back of that page`() {
        var machine = Self.machine()
        #expect(machine.tick(now: 1 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        #expect(machine.heard(LogPosition(generation: "g", sequence: 12), now: 1 * .second) == .none)
        _ = machine.answered(Self.page(Self.head("g", 11), after: 10, [Numbered("g", 11)]), now: 1 * .second)
        #expect(machine.counts.rollbacks == 0)
        // The next one must contain it.
        #expect(machine.tick(now: 2 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 11)))
        _ = machine.answered(Self.page(Self.head("g", 11), after: 11), now: 2 * .second)
        #expect(machine.counts.rollbacks == 1)
    }

    @Test func `messages of a deposed server cause a look now and then, and are never taken`() {
        var machine = Self.machine()
        var looks = 0
        for millisecond in 0..<1000 as Range<Nanos> {
            let now = 1 * .second + millisecond * .millisecond
            if case .fetch = machine.received(Numbered("old", 400 + millisecond), now: now) { looks += 1 }
            if case .fetch = machine.tick(now: now) { looks += 1 }
            _ = machine.answered(Self.page(Self.head("g", 10), after: 10), now: now)
        }
        #expect((1...25).contains(looks), "\(looks)")
        #expect(Self.read(machine, after: 10) == [])
    }

    @Test func `a message that is in no log does not stay`() {
        var machine = Self.machine()
        #expect(
            machine.received(Numbered("g", 500), now: 0) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        #expect(machine.answered(Self.page(Self.head("g", 10), after: 10), now: 0) == .none)
        #expect(machine.isLive)
    }

    @Test func `too much to follow, or a hole, is left to the subscribers`() {
        var machine = Self.machine()
        _ = machine.tick(now: 1 * .second)
        _ = machine.answered(
            Self.page(Self.head("g", 5000), after: 10, Self.numbers("g", 11...522)), now: 1 * .second)
        #expect(machine.position == LogPosition(generation: "g", sequence: 5000))
        #expect(Self.read(machine, after: 10) == nil && Self.read(machine, after: 5000) == [])

        _ = machine.tick(now: 3 * .second)
        _ = machine.answered(
            Self.page(
                Self.head("g", 5009), after: 5000, Self.numbers("g", 5001...5003) + Self.numbers("g", 5005...5009)),
            now: 3 * .second)
        #expect(machine.position == LogPosition(generation: "g", sequence: 5009))
        #expect(Self.read(machine, after: 5000) == nil && machine.counts.jumps == 2)
    }

    @Test func `the ring keeps the newest, by number and by bytes`() {
        var settings = Machine.Settings()
        settings.capacity = 8
        var machine = Self.machine(settings)
        for sequence in 11...30 as ClosedRange<Int64> { _ = machine.received(Numbered("g", sequence), now: 0) }
        #expect(Self.read(machine, after: 21) == nil)
        #expect(Self.read(machine, after: 22) == Array(23...30))
        #expect(Self.read(machine, after: 22, generation: "other") == nil)
        settings.capacityBytes = 350
        machine = Self.machine(settings)
        for sequence in 11...30 as ClosedRange<Int64> { _ = machine.received(Numbered("g", sequence), now: 0) }
        #expect(Self.read(machine, after: 26) == nil)
        #expect(Self.read(machine, after: 27) == [28, 29, 30])
    }

    @Test func `a failed look is repeated, and a stopped machine does nothing`() {
        var machine = Self.machine()
        _ = machine.tick(now: 1 * .second)
        machine.failed(now: 3 * .second)
        #expect(!machine.isLive)
        #expect(machine.wakeAt == 3 * .second + 100 * .millisecond)
        #expect(machine.tick(now: 4 * .second) == .fetch(after: LogPosition(generation: "g", sequence: 10)))
        machine.stop()
        #expect(machine.answered(Self.page(Self.head("g", 10), after: 10), now: 4 * .second) == .none)
        #expect(machine.received(Numbered("g", 11), now: 4 * .second) == .none)
        #expect(machine.wakeAt == .never && machine.position == nil)
        #expect(machine.start() == .fetch(after: nil))
    }
}
