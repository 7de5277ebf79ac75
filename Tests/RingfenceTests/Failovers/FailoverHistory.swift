// SPDX-License-Identifier: Apache-2.0
//
// What happened in a run with failovers, and what must not have. The history is a list of facts with their times, by
// one clock for all processes; the checks look at nothing else, so each is shown to find what it is there for.
//
// Held against a run, as far as it is promised for a primary whose last writes its replicas may lack:
//
//  - no event is lost in silence: what a subscriber gets has no hole that a reset does not tell of, with its size; and
//    a change that was told as done, and had reached all replicas before the next fault, is heard by every subscriber,
//    or a reset tells it to look;
//  - nobody is stuck: after each failover all get what they want again, no call takes longer than it may, no
//    subscription ends;
//  - no ghosts: when all is over nobody holds a lock, waits for one, or is a member;
//  - those that wait after a failover are served in the order in which they came, and those that waited before it are
//    served.
//
// Counted, and not refused: two holders at once, since a grant that the new primary never heard of may be given again,
// and an old primary that is cut off with a caller goes on granting; and a line that stood across a failover and was
// served out of order.
import RingfencePlatform

struct FailoverHistory: Sendable {
    enum What: Sendable, Equatable {
        case fault(String)
        /// All servers and Sentinels are there again, and agree.
        case complete
        /// What was told before has reached all replicas.
        case kept
        /// A lock's body begins and ends, and the call returns: `none` is well.
        case begins(name: String, fence: Int64)
        case ends(name: String)
        case returned(name: String, code: String)
        /// A change is asked for, and told as done.
        case asks(String)
        case told(String)
        /// Where the events begin, an event with the key of its change, events that are not given, and their end.
        case follows(Place)
        case heard(Place, String)
        case reset(Place, lost: Int64?)
        case unfollowed(String)
        case quiet
        /// All have gone on since the last fault, or these have not for a minute.
        case goesOn(without: [String])
        /// The order in which waiters were served that came one after the other: after a fault, and before it.
        case served([Int])
        case stood([Int])
        /// What is left in Redis at the end.
        case left([String])
    }

    /// A place in the event log.
    struct Place: Sendable, Equatable {
        var generation: String
        var sequence: Int64
    }

    struct Fact: Sendable, Equatable {
        /// Microseconds.
        var at: Int64
        /// The number of the process; 0 is the test.
        var by: Int
        var what: What
    }

    /// In the order of their times, once sorted.
    private(set) var facts: [Fact] = []

    mutating func add(_ fact: Fact) { facts.append(fact) }
    mutating func add(_ what: What) { facts.append(Fact(at: monotonicMicroseconds(), by: 0, what: what)) }

    /// Facts of several processes come as they are read.
    func sorted() -> FailoverHistory {
        var copy = self
        copy.facts = facts.enumerated().sorted { ($0.element.at, $0.offset) < ($1.element.at, $1.offset) }
            .map(\.element)
        return copy
    }

    var violations: [String] { holes + unheard + stuck + slow + disorder + ghosts }

    // MARK: Events

    private var holes: [String] {
        var last: [Int: Place] = [:]
        var found: [String] = []
        for fact in facts {
            switch fact.what {
            case .follows(let place): last[fact.by] = place
            case .reset(let place, let lost):
                if let last = last[fact.by], let lost, last.generation == place.generation,
                    lost != place.sequence - last.sequence
                {
                    found.append("\(fact.by): a reset from \(last) to \(place) tells of \(lost) lost events")
                }
                last[fact.by] = place
            case .heard(let place, _):
                if let last = last[fact.by], place.sequence != last.sequence + 1 {
                    found.append("\(fact.by): \(place) was heard behind \(last)")
                }
                last[fact.by] = place
            case .unfollowed(let why): found.append("\(fact.by): the subscription ended: \(why)")
            default: break
            }
        }
        return found
    }

    /// Changes that a subscriber was neither told nor, by a reset, told to look for.
    var unheard: [String] {
        let owed = owed
        return subscribers.flatMap { subscriber in
            owed.filter { change in
                change.asked >= subscriber.since && !subscriber.heard.contains(change.key)
                    && !subscriber.resets.contains { $0 >= change.asked }
            }.map { "\(subscriber.by) never heard of \($0.key)" }
        }
    }

    /// The changes that a subscriber must hear of: asked for and told between two faults, and at all replicas before
    /// the second.
    var owed: [(key: String, asked: Int64)] {
        var asked: [String: Int64] = [:]
        var told: [(key: String, asked: Int64)] = []
        var owed: [(key: String, asked: Int64)] = []
        var calmSince: Int64? = 0
        for fact in facts {
            switch fact.what {
            case .fault: (calmSince, told) = (nil, [])
            case .complete: calmSince = fact.at
            case .kept: (owed, told) = (owed + told, [])
            case .asks(let key): asked[key] = fact.at
            case .told(let key):
                if let since = calmSince, let at = asked[key], at >= since { told.append((key, at)) }
            default: break
            }
        }
        return owed
    }

    private struct Subscriber {
        var by: Int
        var since: Int64
        var heard: Set<String> = []
        var resets: [Int64] = []
    }

    private var subscribers: [Subscriber] {
        var all: [Int: Subscriber] = [:]
        for fact in facts {
            switch fact.what {
            case .follows: all[fact.by] = Subscriber(by: fact.by, since: fact.at)
            case .heard(_, let key): all[fact.by]?.heard.insert(key)
            case .reset: all[fact.by]?.resets.append(fact.at)
            default: break
            }
        }
        return all.values.sorted { $0.by < $1.by }
    }

    // MARK: Calls

    private var stuck: [String] {
        facts.compactMap {
            if case .goesOn(let without) = $0.what, !without.isEmpty { "stuck: \(without)" } else { nil }
        }
    }

    /// A call for a lock waits 30 s at most and holds it for 3 at most: each loop has something to say in a minute.
    private var slow: [String] {
        var last: [String: Int64] = [:]
        var found: [String] = []
        for fact in facts {
            switch fact.what {
            case .begins(let name, _), .ends(let name), .returned(let name, _):
                let loop = "\(fact.by) \(name)"
                if let last = last[loop], fact.at - last > 60_000_000 {
                    found.append("\(loop) said nothing for \((fact.at - last) / 1_000_000) s")
                }
                last[loop] = fact.at
            default: break
            }
        }
        return found
    }

    private var disorder: [String] {
        facts.compactMap {
            switch $0.what {
            case .served(let order) where order != order.sorted(): "served: \(order)"
            case .stood(let order) where order.sorted() != Array(0..<FailoverHistory.line): "served of a line: \(order)"
            default: nil
            }
        }
    }

    /// How many stand in a line.
    static let line = 8

    private var ghosts: [String] {
        var found: [String] = []
        for case .left(let keys) in facts.map(\.what) { found += keys.map { "left behind: \($0)" } }
        return found
    }
}

// MARK: What is counted

extension FailoverHistory {
    func count(_ isCounted: (What) -> Bool) -> Int { facts.count { isCounted($0.what) } }

    /// Lines that stood across a failover and were served in another order.
    var standingOutOfOrder: Int {
        count { if case .stood(let order) = $0 { order != order.sorted() } else { false } }
    }

    /// Times at which a lock was given to one while another had it.
    var overlaps: Int {
        var holders: [String: Set<Int>] = [:]
        var count = 0
        for fact in facts {
            switch fact.what {
            case .begins(let name, _):
                if holders[name]?.isEmpty == false { count += 1 }
                holders[name, default: []].insert(fact.by)
            case .ends(let name): holders[name]?.remove(fact.by)
            default: break
            }
        }
        return count
    }

    /// For each fault the longest time from then on in which nobody was given a lock, until the next.
    var pauses: [(fault: String, microseconds: Int64)] {
        var pauses: [(fault: String, microseconds: Int64)] = []
        var last: Int64?
        for fact in facts {
            switch fact.what {
            case .fault(let name):
                pauses.append((name, 0))
                last = fact.at
            case .begins:
                if let last, let longest = pauses.last?.microseconds {
                    pauses[pauses.count - 1].microseconds = max(longest, fact.at - last)
                }
                last = fact.at
            default: break
            }
        }
        return pauses
    }
}

// MARK: As a process says it

extension FailoverHistory.Fact {
    /// A line of TestCaller; nil if it is none.
    init?(_ line: Substring, by: Int) {
        let words = line.split(separator: " ").map { String($0) }
        guard words.count >= 2, let at = Int64(words[0]), let what = FailoverHistory.What(words: words.dropFirst())
        else { return nil }
        self.init(at: at, by: by, what: what)
    }
}

extension FailoverHistory.What {
    fileprivate init?(words: ArraySlice<String>) {
        let words = Array(words)
        func place() -> FailoverHistory.Place? {
            guard words.count > 2, let sequence = Int64(words[2]) else { return nil }
            return .init(generation: words[1], sequence: sequence)
        }
        switch (words[0], words.count) {
        case ("begins", 3):
            guard let fence = Int64(words[2]) else { return nil }
            self = .begins(name: words[1], fence: fence)
        case ("ends", 2): self = .ends(name: words[1])
        case ("returned", 3): self = .returned(name: words[1], code: words[2])
        case ("asks", 2): self = .asks(words[1])
        case ("told", 2): self = .told(words[1])
        case ("follows", 3):
            guard let place = place() else { return nil }
            self = .follows(place)
        case ("heard", 4):
            guard let place = place() else { return nil }
            self = .heard(place, words[3])
        case ("reset", 4):
            guard let place = place(), let lost = Int64(words[3]) else { return nil }
            self = .reset(place, lost: lost < 0 ? nil : lost)
        case ("unfollowed", 2): self = .unfollowed(words[1])
        case ("quiet", 1): self = .quiet
        default: return nil
        }
    }
}
