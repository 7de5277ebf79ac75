// SPDX-License-Identifier: Apache-2.0
//
// The event log in a world of one thread: a Redis that appends, trims, forgets, forks and steps back; a network that
// loses, delays, doubles and reorders; one process with the real machine and subscribers of every kind: quick, slow,
// dying and coming back with their cursor. One seed is one story.
//
// The rule is a chain. Each event knows which event the log ended with when it was appended. A subscriber's next event
// must be appended to the very event it had last, or a reset must stand between: so a view is a gap-free and
// duplicate-free piece of one true history, whatever numbers and generations say. A reset must have been needed, and
// tell the exact loss where that can be known. In the calm, everybody must get to the end of the log.
import RingfenceCore
import TestSupport

final class EventWorld: SimulatedWorld {
    enum Fault: CaseIterable {
        case lose, double, reorder, cutMessages, loseAnswers, slow, restart, restartLosing, restartEmpty, flush,
            promote,
            zombie, hole, kill, sleepers, lateTimers
    }

    struct Flaws {
        /// The log goes on under its old name when a server takes over.
        var hasNoGenerations = false
        /// What a server has lost is not known.
        var forgetsWhereGenerationsEnded = false
        var neverChecksSilence = false
        var takesResetsForNothing = false
        /// What the machine asks for when an answer mentions the log is not done.
        var forgetsToLook = false
    }

    let flaws: Flaws
    private let faults: Set<Fault>
    private(set) var isCalm = false

    private var log = SimulatedLog()
    private var replica = SimulatedLog()
    private var runID = "run-0"
    private var runs = 0
    private var counter = 0
    private let retain: Int64

    private var machine: EventLogMachine<SimulatedEvent>
    private var timer = 0
    /// Counts subscriptions; messages of an older one do not arrive any more.
    private var link = 0
    private var isLinked = false
    private var arrivesAt: Nanos = 0
    private var zombie: SimulatedLog?
    private var zombieRun = ""

    private var readers: [SimulatedReader] = []

    private(set) var delivered = 0
    private(set) var resets = 0
    var counts: EventLogMachine<SimulatedEvent>.Counts { machine.counts }

    init(
        seed: UInt64, faults: [Fault]? = nil, flaws: Flaws = Flaws(), retain: Int64 = 60, isTracing: Bool = false
    ) {
        self.flaws = flaws
        self.retain = retain
        var random = SplitMix64(seed: seed)
        var drawn: Set<Fault> = []
        for fault in Fault.allCases where random.chance(35) { drawn.insert(fault) }
        self.faults = faults.map { Set($0) } ?? drawn
        var settings = EventLogMachine<SimulatedEvent>.Settings()
        settings.capacity = 16
        settings.pendingMaximum = 8
        machine = EventLogMachine(settings)
        super.init(seed: seed, random: random, isTracing: isTracing)
    }

    private func has(_ fault: Fault, _ percent: UInt64) -> Bool {
        !isCalm && faults.contains(fault) && random.chance(percent)
    }

    override func travelTime() -> Nanos {
        random.pick(Nanos.millisecond / 20...(has(.slow, 10) ? 300 : 2) * .millisecond)
    }

    // MARK: The story

    func run() throws {
        for number in 0..<5 { add(SimulatedReader(number: number, cursor: number == 0 ? .start : nil)) }
        perform(machine.start())
        subscribe()
        appendAgain()
        faultAgain()
        replicateAgain()
        after(12 * .second) {
            self.isCalm = true
            self.note("calm")
            // Half of the worlds end in silence: what was lost must be told also if nothing is ever appended behind it.
            if self.random.chance(50) { self.append() }
        }
        // It may just be looking, as it does each second.
        try play(while: { now <= 62 * .second && (now <= 60 * .second || !machine.isLive) })
        for reader in readers where reader.isAlive && reader.anchor != log.lastID {
            fail("\(reader.name) is at \(reader.anchor) and not at the end, \(log.lastID): \(reader.machine)")
        }
        if !machine.isLive { fail("the machine is not live in the end") }
        if let violation { throw violation }
    }

    /// Another life of a server, with a name that no other had.
    private func beginRun() {
        runs += 1
        runID = "run-\(runs)"
    }

    private func appendAgain() {
        guard !isCalm else { return }
        for _ in 0..<random.pick(1...4) { append() }
        after(random.chance(5) ? 1500 * .millisecond : random.pick(1...40) * .millisecond) { self.appendAgain() }
    }

    private func append() {
        counter += 1
        let run = flaws.hasNoGenerations ? "" : runID
        let event = log.append(id: counter, run: run, nonce: "g\(counter)", retain: retain)
        note("append \(event.position) id \(event.id)")
        publish(event)
    }

    /// The log of the server that was deposed, to which our subscription may still be connected.
    private func appendToZombie() {
        guard zombie != nil, !isCalm else { return zombie = nil }
        counter += 1
        let event = zombie!.append(id: counter, run: zombieRun, nonce: "z\(counter)", retain: retain)
        note("zombie appends \(event.position) id \(event.id) after \(event.parent)")
        publish(event)
        after(random.pick(1...30) * .millisecond) { self.appendToZombie() }
    }

    private func replicateAgain() {
        guard !isCalm else { return }
        replica = log
        after(random.pick(1...200) * .millisecond) { self.replicateAgain() }
    }

    private func publish(_ event: SimulatedEvent) {
        guard isLinked, !has(.lose, 5) else { return }
        let link = self.link
        for _ in 0..<(has(.double, 5) ? 2 : 1) {
            // One connection keeps the order, except where this world is worse than TCP.
            arrivesAt = has(.reorder, 5) ? now + travelTime() : max(arrivesAt, now + travelTime())
            at(arrivesAt) { self.hear(event, link) }
        }
    }

    private func hear(_ event: SimulatedEvent, _ link: Int) {
        guard link == self.link, isLinked else { return }
        perform(machine.received(event, now: now))
    }

    private func subscribe() {
        link += 1
        let link = self.link
        after(travelTime() * 3) {
            guard link == self.link else { return }
            self.isLinked = true
            self.zombie = nil
            self.perform(self.machine.subscribed())
        }
    }

    private func cutMessages() {
        link += 1
        isLinked = false
        machine.disconnected()
        after(random.pick(1...400) * .millisecond) { self.subscribe() }
    }

    private func faultAgain() {
        guard !isCalm else { return }
        if has(.cutMessages, 10) { cutMessages() }
        if has(.restart, 4) {
            note("restart")
            beginRun()
            cutMessages()
        }
        if has(.restartLosing, 4) {
            log = replica
            note("restart, back to \(log.head.position)")
            beginRun()
            cutMessages()
        }
        if has(.restartEmpty, 2) {
            note("restart, empty")
            log = SimulatedLog()
            replica = log
            beginRun()
            cutMessages()
        }
        if has(.flush, 2) {
            note("flush")
            log = SimulatedLog()
            replica = log
        }
        if has(.promote, 5) {
            let former = (log: log, run: runID)
            log = replica
            note("promoted, back to \(log.head.position)")
            beginRun()
            if has(.zombie, 100), former.log.generation != nil, zombie == nil {
                // Our subscription stays with the former server for a while.
                (zombie, zombieRun) = former
                appendToZombie()
                after(random.pick(100...800) * .millisecond) { if self.zombie != nil { self.cutMessages() } }
            } else {
                cutMessages()
            }
        }
        if has(.hole, 3), log.sequence > log.first {
            let sequence = random.pick(log.first...log.sequence)
            log.history[Int(sequence - 1)] = nil
            note("hole at \(sequence)")
        }
        if has(.kill, 10), let reader = readers.filter(\.isAlive).randomElement(using: &random) {
            reader.isAlive = false
            note("\(reader.name) dies at \(reader.machine.position?.text ?? "nothing")")
            let again = SimulatedReader(number: readers.count, cursor: reader.given)
            again.anchor = reader.anchor
            after(random.pick(1...2000) * .millisecond) { self.add(again) }
        }
        after(100 * .millisecond) { self.faultAgain() }
    }

    // MARK: The process

    private func perform(_ action: EventLogMachine<SimulatedEvent>.Action) {
        if case .fetch(let position) = action { fetch(after: position) }
        setTimer()
        wake()
    }

    private func heard(_ head: LogHead) {
        let action = machine.heard(head.position, now: now)
        perform(flaws.forgetsToLook ? .none : action)
    }

    private func setTimer() {
        timer += 1
        let timer = self.timer
        guard machine.wakeAt != .never, !flaws.neverChecksSilence else { return }
        // A timer of a busy process strikes late, and other things happen between.
        let lateness = has(.lateTimers, 10) ? random.pick(1...200) * .millisecond : 0
        at(max(now, machine.wakeAt) + lateness) {
            guard timer == self.timer else { return }
            self.perform(self.machine.tick(now: self.now))
        }
    }

    /// A question to Redis and its answer; nil: it was lost.
    private func ask<Answer>(_ question: @escaping () -> Answer, _ completion: @escaping (Answer?) -> Void) {
        if has(.loseAnswers, 8) {
            // Whether the question or the answer was lost does not matter: it changes nothing.
            return after(500 * .millisecond) { completion(nil) }
        }
        after(travelTime()) {
            let answer = question()
            self.after(self.travelTime()) { completion(answer) }
        }
    }

    private func told(_ page: LogPage<SimulatedEvent>) -> LogPage<SimulatedEvent> {
        var page = page
        if flaws.forgetsWhereGenerationsEnded {
            page.head.forks = page.head.forks.map { .init(generation: $0.generation, last: .max) }
        }
        return page
    }

    private func fetch(after position: LogPosition?) {
        ask {
            let page = self.log.page(after: position?.sequence ?? self.log.sequence, count: 12)
            return self.told(page)
        } _: { page in
            if let page {
                self.perform(self.machine.answered(page, now: self.now))
            } else {
                self.machine.failed(now: self.now)
                self.perform(.none)
            }
        }
    }

    private func add(_ reader: SimulatedReader) {
        reader.isSlow = faults.contains(.sleepers) && random.chance(50)
        readers.append(reader)
        turn(reader)
    }

    private func wake() {
        for reader in readers where reader.isAlive && reader.waitsFor != nil && reader.waitsFor != machine.revision {
            reader.waitsFor = nil
            turn(reader)
        }
    }

    private func turn(_ reader: SimulatedReader) {
        guard reader.isAlive, violation == nil else { return }
        switch reader.machine.step(machine) {
        case .wait(let revision):
            if revision != machine.revision { return turn(reader) }
            reader.waitsFor = revision
        case .deliver(let events):
            give(events, to: reader)
        case .page(let position):
            let (era, revision) = (machine.era, machine.revision)
            ask {
                self.told(self.log.page(after: position.sequence, count: 12))
            } _: { page in
                guard reader.isAlive else { return }
                guard let page else { return self.after(50 * .millisecond) { self.turn(reader) } }
                let events = reader.machine.paged(page, era: era, revision: revision)
                self.heard(page.head)
                self.give(events, to: reader)
            }
        case .state:
            let era = machine.era
            ask {
                (head: self.told(self.log.page(after: self.log.sequence, count: 1)).head, log: self.log)
            } _: { answer in
                guard reader.isAlive else { return }
                guard let answer else { return self.after(50 * .millisecond) { self.turn(reader) } }
                let outcome = reader.machine.stated(answer.head, era: era)
                self.told(outcome, answer.log, reader)
                self.heard(answer.head)
                self.turn(reader)
            }
        }
    }

    private func told(
        _ outcome: EventReaderMachine<SimulatedEvent>.Outcome, _ log: SimulatedLog, _ reader: SimulatedReader
    ) {
        switch outcome {
        case .resume: return
        case .begin: note("\(reader.name) begins at \(log.head.position)")
        case .reset(let lost):
            resets += 1
            note("\(reader.name) is reset to \(log.head.position), lost \(lost.map { "\($0)" } ?? "unknown")")
            if flaws.takesResetsForNothing { return }
            let place = reader.anchor == 0 ? 0 : log.ids.firstIndex(of: reader.anchor).map { $0 + 1 }
            if let place {
                if lost != log.sequence - Int64(place) { fail("\(reader.name) is told it lost \(lost ?? -1)") }
                let next = place + 1
                let isKept = next >= log.first && log.history[(next - 1)...].allSatisfy { $0 != nil }
                if isKept, !faults.contains(.hole) { fail("\(reader.name) is reset at \(place), which was good") }
            } else if lost != nil, !flaws.forgetsWhereGenerationsEnded {
                fail("\(reader.name) is told an exact loss that nobody can know")
            }
        }
        reader.anchor = log.lastID
        reader.given = log.head.position
    }

    private func give(_ events: [SimulatedEvent], to reader: SimulatedReader) {
        for event in events {
            note("\(reader.name) gets \(event.position) id \(event.id)")
            if event.parent != reader.anchor {
                return fail(
                    "\(reader.name) gets \(event.position), id \(event.id), which follows \(event.parent), "
                        + "after \(reader.anchor)")
            }
            reader.anchor = event.id
            reader.given = event.position
            delivered += 1
        }
        let pause: Nanos = reader.isSlow && !isCalm && random.chance(20) ? random.pick(1...3000) * .millisecond : 0
        if pause > 0 { after(pause) { self.turn(reader) } } else { turn(reader) }
    }
}
