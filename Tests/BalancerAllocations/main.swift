// SPDX-License-Identifier: Apache-2.0
//
// Picks many times and says how often memory was allocated meanwhile. A process of its own, because it counts by standing in
// for malloc, and what runs beside it must not be counted.
import MallocCounter
import Ringfence

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
// And a control, to show that the counter counts.
count("array") { number in [number, number].map { Int($0 & 1) + 1 }.count }
