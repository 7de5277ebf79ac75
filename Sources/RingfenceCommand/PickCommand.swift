// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceCore
import RingfenceOperations

struct PickCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pick",
        abstract: "Print the address of a group's member to call now.",
        discussion: """
            Reads the group once and picks among the members that live, have a weight and whose check passes. Prints \
            the address, or the id of one that has none. Nothing is called and nothing is changed.

            POLICY         PICKS
            leastLoaded    one drawn by weight, or any other with fewer calls; the default
            peakEWMA       the same, by what a call is expected to cost
            roundRobin     one after the other
            weighted       each as often as its weight says, evenly spread
            random         each as likely as its weight says
            ringHash       the owner of --key on the group's ring, or the next that can be called
            boundedLoad    the same, and who has far more calls than others is passed over
            primaryOnly    the primary, once it is ready
            nearestZone    a member of --zone, as long as enough of them can be called

            A process that has just begun knows of no calls, so here leastLoaded and peakEWMA pick by weight alone. A \
            service that calls often uses the library or POST /v1/groups/NAME/pick, which learn from each call.

            EXIT CODES
              0    printed
              1    there is no such group
              64   bad usage
              69   Redis cannot be reached, or refused
              75   nobody can be called now, or an operator forced the breaker open

            EXAMPLES
              curl "http://$(ringfence pick card-issuer)/authorize"
              ringfence pick card-issuer --policy ringHash --key account/4711
              ringfence pick card-issuer --policy nearestZone --zone eu-1a
              ringfence pick card-issuer --policy weighted --count 100 | sort | uniq -c
            """)

    @Argument(help: "The group's name.")
    var group: String
    @Option(help: ArgumentHelp("By what rule, see above.", valueName: "policy"))
    var policy: String?
    @Option(help: "The key, for ringHash and boundedLoad.")
    var key: String?
    @Option(help: "The zone, for nearestZone.")
    var zone: String?
    @Option(help: "How many picks, one a line: 1 to 1000.")
    var count = 1
    @Flag(help: "Print JSON, one object a line.")
    var json = false
    @OptionGroup(title: "Redis and general options")
    var redis: RedisOptions

    func validate() throws {
        guard (1...1000).contains(count) else { throw ValidationError("--count must be 1 to 1000, not \(count)") }
        _ = try balancePolicy()
    }

    private func balancePolicy() throws -> BalancePolicy {
        do { return try BalancePolicy(name: policy, zone: zone, hasKey: key != nil) } catch {
            throw ValidationError("--\(error)")
        }
    }

    func run() async throws {
        let policy = try balancePolicy()
        let (name, key, count, json) = (group, key, count, json)
        try await redis.withClient { client in
            let group = try await client.group(name)
            let snapshot = group.snapshot
            guard snapshot.version > 0 else { throw NoSuchGroup(name: name) }
            let balancer = try group.balancer(policy)
            for _ in 0..<count {
                let member = try key.map { try balancer.pick(key: $0) } ?? balancer.pick()
                if json {
                    try put(namingRedis(JSONWriter.describing(PickView(snapshot, policy, member)).text))
                } else {
                    try put(member.address.isEmpty ? member.id : member.address)
                }
            }
        }
    }
}
