// SPDX-License-Identifier: Apache-2.0
//
// Asks a ring or a balancer many things and says how often memory was allocated meanwhile:
//
//      Allocations ring|balancer
//
// A process of its own, because it counts by standing in for malloc, and what runs beside it must not be counted.
import MallocCounter
import Ringfence
import RingfencePlatform

/// Prints the allocations of a hundred thousand calls, after some that may set things up; -1 where none can be counted.
/// The loops here are plain ones, because in a debug build the iteration over a range or a collection allocates itself.
func count(_ name: String, _ body: (UInt64) throws -> Int) rethrows {
    var sum = 0
    var number: UInt64 = 0
    while number < 20_000 {
        sum &+= try body(number)
        number += 1
    }
    let before = malloc_counter_count()
    number = 0
    while number < 100_000 {
        sum &+= try body(number)
        number += 1
    }
    let allocations = before < 0 ? -1 : malloc_counter_count() - before
    print("\(name) \(allocations)")
    precondition(sum != 0)
}

/// Reads all of a list.
func length(_ list: HashRing.PreferenceList) -> Int {
    var length = 0
    var place = 0
    while place < list.count {
        length &+= list[place].utf8.count
        place += 1
    }
    return length
}

func countRing() throws {
    let members = (0..<300).map { HashRing.Member(id: "a-member-with-a-long-name-\($0)", zone: "zone-\($0 % 3)") }
    let ring = try HashRing(members, pointsPerWeight: 128)
    let text = String(repeating: "key:", count: 5)
    let bytes = Array(text.utf8)

    count("owner-of-text") { _ in ring.owner(of: text)?.utf8.count ?? 0 }
    count("owner-of-number") { ring.owner(of: $0)?.utf8.count ?? 0 }
    count("owner-of-bytes") { _ in ring.owner(of: bytes)?.utf8.count ?? 0 }
    count("index") { ring.ownerIndex(of: $0) ?? 0 }
    count("list-of-three") { length(ring.preferenceList(for: $0, count: 3)) }
    count("list-of-eight") { length(ring.preferenceList(for: $0, count: 8)) }
}

func countBalancer() throws {
    let members = (0..<10).map { (id: "a-member-with-a-long-name-\($0)", weight: $0 % 3 + 1, zone: "zone-\($0 % 3)") }
    for policy: BalancePolicy in [
        .roundRobin, .weighted, .random, .leastLoaded, .peakEWMA, .ringHash, .boundedLoad, .nearestZone("zone-1"),
    ] {
        let balancer = try Balancer(policy, members: members)
        if policy.needsKey {
            try count("\(policy)") { try balancer.pick(key: $0).id.utf8.count }
        } else {
            try count("\(policy)") { _ in try balancer.pick().id.utf8.count }
        }
    }
}

switch CommandLine.arguments.dropFirst().first {
case "ring": try countRing()
case "balancer": try countBalancer()
default:
    print("usage: Allocations ring|balancer")
    exit(64)
}
// And a control, to show that the counter counts.
count("array") { number in [number, number].map { Int($0 & 1) + 1 }.count }
