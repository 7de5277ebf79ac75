// SPDX-License-Identifier: Apache-2.0
//
// What happened in a run with failovers, and what must not have. The history is a list of facts in the order in which
// this process learnt of them; the checks look at nothing else, so each is shown to find what it is there for.
//
// Held against a run, as far as it is promised for a primary whose last writes its replicas may lack:
//
//  - no event is lost in silence: within a generation the sequences that a subscriber gets have no hole, and what a
//    publisher was told is done reaches the subscriber, or a reset does;
//  - nobody is stuck: each call ends, and after each failover each client gets a lock;
//  - no ghosts: when all is over nobody holds a lock, waits for one, or is a member;
//  - those that wait after a failover are served in the order in which they came.
//
// Two holders at once are counted, and not refused: a grant that the new primary never heard of may be given again. The
// load holds a lock for some milliseconds, and no client stays with a primary that is cut off: no count here says that
// it cannot be.

struct FailoverHistory: Sendable {
    enum Fact: Sendable, Equatable {
        case fault(String)
        /// A lock's body begins and ends.
        case begins(name: String, client: Int, fence: Int64)
        case ends(name: String, client: Int)
        /// A member that stays has joined: the call was answered.
        case joined(member: String)
        /// The subscriber has got it.
        case heard(generation: String, sequence: Int64, type: String, member: String)
        case reset
        /// All clients have had a lock since the last fault, or one has not for a minute.
        case goesOn(without: [Int])
        /// The order in which eight waiters were served that came one after the other.
        case served([Int])
        /// What is left in Redis at the end.
        case left([String])
    }

    private(set) var facts: [Fact] = []
    mutating func add(_ fact: Fact) { facts.append(fact) }

    var faults: Int { facts.count { if case .fault = $0 { true } else { false } } }
    var grants: Int { facts.count { if case .begins = $0 { true } else { false } } }
    var events: Int { facts.count { if case .heard = $0 { true } else { false } } }
    var resets: Int { facts.count { $0 == .reset } }

    /// Times at which a lock was given to one while another had it.
    var overlaps: Int {
        var holders: [String: Set<Int>] = [:]
        var count = 0
        for fact in facts {
            switch fact {
            case .begins(let name, let client, _):
                if holders[name]?.isEmpty == false { count += 1 }
                holders[name, default: []].insert(client)
            case .ends(let name, let client): holders[name]?.remove(client)
            default: break
            }
        }
        return count
    }

    var violations: [String] { holes + unheard + stuck + disorder + ghosts }

    private var holes: [String] {
        var last: (generation: String, sequence: Int64)?
        var found: [String] = []
        for fact in facts {
            switch fact {
            case .reset: last = nil
            case .heard(let generation, let sequence, let type, _):
                if let last, last.generation == generation, sequence != last.sequence + 1 {
                    found.append("\(type) \(generation):\(sequence) was heard behind \(last.sequence)")
                }
                if let last, last.generation != generation, sequence != last.sequence + 1 {
                    found.append("\(generation):\(sequence) was heard behind \(last.sequence), with no reset between")
                }
                last = (generation, sequence)
            default: break
            }
        }
        return found
    }

    /// Members whose joining the subscriber was neither told nor, by a reset, told to look for.
    private var unheard: [String] {
        var open: Set<String> = []
        var early: Set<String> = []
        for fact in facts {
            switch fact {
            case .joined(let member): if !early.contains(member) { open.insert(member) }
            case .heard(_, _, "member.joined", let member):
                open.remove(member)
                early.insert(member)
            case .reset: open.removeAll()
            default: break
            }
        }
        return open.sorted().map { "the subscriber never heard that \($0) joined" }
    }

    private var stuck: [String] {
        facts.compactMap {
            if case .goesOn(let without) = $0, !without.isEmpty { "no lock for \(without)" } else { nil }
        }
    }

    private var disorder: [String] {
        facts.compactMap {
            if case .served(let order) = $0, order != order.sorted() { "served: \(order)" } else { nil }
        }
    }

    private var ghosts: [String] {
        var found: [String] = []
        for case .left(let keys) in facts { found += keys.map { "left behind: \($0)" } }
        return found
    }
}
