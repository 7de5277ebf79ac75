// SPDX-License-Identifier: Apache-2.0
//
// What operators order about a group. Each order says who gave it and why, and both stand in its event; what is refused
// changes nothing, says every reason and exits with 2.
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// What every order takes.
struct OrderArguments: ParsableArguments {
    @Option(help: "Why, for the event. Up to 512 bytes.")
    var reason = ""
    @Option(help: ArgumentHelp("Who orders it, for the event: 1 to 128 bytes. (default: the user)", valueName: "label"))
    var actor: String?
    @OptionGroup var group: GroupArguments

    var name: String { group.name }

    var who: String { actor ?? getenv("USER").map { String(cString: $0) } ?? "uid \(getuid())" }

    /// Gives the order, and says what came of it.
    /// - Parameter outcome: what `give` did, in one word for JSON.
    func run(
        _ outcome: String, _ said: String, _ give: @Sendable @escaping (RingfenceClient) async throws -> PrimaryStatus?
    ) async throws {
        let arguments = self
        let primary = try await untilInterrupted {
            try await arguments.group.redis.withClient(give)
        }
        guard let primary else { throw CommandFailure("interrupted; `ringfence group \(name)` shows how it is now") }
        if group.json { return try put(namingRedis(JSONWriter.describing(outcome, of: name, primary).text)) }
        try put(said + (primary.map { "\($0.member ?? "nobody") is primary, epoch \($0.epoch)" } ?? ""))
    }
}

extension OrderArguments {
    /// Gives an order after which there is nothing to wait for.
    func give(
        _ outcome: String, _ said: String? = nil,
        _ order: @Sendable @escaping (RingfenceClient, OrderArguments) async throws -> Void
    ) async throws {
        let arguments = self
        try await run(outcome, said ?? outcome) { client in
            try await order(client, arguments)
            return nil
        }
    }
}

struct PlanGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Show who would be primary if it died now, how soon, and why not each of the others.",
        usage: "ringfence group NAME plan [--json]",
        discussion: """
            Candidates in the order in which they would be elected; those that may not, at the end with every reason. \
            Nothing is changed.

            EXAMPLES
              ringfence group ledger plan
              ringfence group ledger plan --json | jq -r '.winner'
            """)

    @OptionGroup var group: GroupArguments

    func run() async throws {
        let status = try await group.redis.withClient { try await $0.inspectGroup(group.name) }
        guard status.version > 0 else { throw ExitCode.noGroup(group.name) }
        if group.json { return try put(namingRedis(JSONWriter.describing(status.plan).text)) }
        for line in GroupPicture.lines(status.plan) { try put(line) }
    }
}

struct SwitchoverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "switchover",
        abstract: "Hand the role of primary over without losing writes.",
        usage: "ringfence group NAME switchover [--to MEMBER] [--timeout DURATION] [--reason TEXT]\n"
            + "ringfence group NAME switchover --abort",
        discussion: """
            The primary is asked to stop and to say how far it came; the target is elected when it has come as far. Waits \
            until the new primary is ready. If the target does not get there in time the order is taken back and the primary \
            goes on (exit code 75). Ctrl-C takes it back too.

            EXAMPLES
              ringfence group ledger switchover --reason 'kernel update'    # to whom would be elected
              ringfence group ledger switchover --to node-2 --timeout 10s
              ringfence group ledger switchover --abort
            """)

    @Option(help: ArgumentHelp("Who shall be primary. (default: who would be elected)", valueName: "member"))
    var to: String?
    @Option(help: "Until when it must be elected, 10ms to 1h.")
    var timeout = DurationArgument(.seconds(30))
    @Flag(help: "Take the switchover back that is under way.")
    var abort = false
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard timeout.duration >= .milliseconds(10), timeout.duration <= .seconds(3600) else {
            throw ValidationError("--timeout must be 10ms to 1h, not \(timeout.duration.shortText)")
        }
        if abort, to != nil { throw ValidationError("give --to or --abort, not both") }
    }

    func run() async throws {
        let (name, who, why, to, limit) = (order.name, order.who, order.reason, to, timeout.duration)
        if abort {
            return try await order.give("aborted", "taken back") {
                try await $0.abortSwitchover(group: $1.name, actor: $1.who, reason: $1.reason)
            }
        }
        try await order.run("ready", "") { client in
            try await client.switchover(group: name, to: to, timeout: limit, actor: who, reason: why)
        }
    }
}

struct FailoverCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "failover",
        abstract: "Give the role of primary to a member and accept lost writes.",
        usage: "ringfence group NAME failover --to MEMBER --accept-data-loss [--reason TEXT]",
        discussion: """
            For a primary that does not hand over any more, or when nobody is elected by itself. The primary is told to \
            stop at once; the member is elected as soon as it says that it did, or its lease is over. What the member has not \
            received is lost. A primary that works is switched over instead: nothing is lost then.

            EXAMPLES
              ringfence group ledger failover --to node-2 --accept-data-loss --reason 'ticket 4711'
            """)

    @Option(help: ArgumentHelp("Who shall be primary. Required.", valueName: "member"))
    var to: String
    @Flag(help: "Required: says that you know that what the member has not received is lost.")
    var acceptDataLoss = false
    @Option(help: "How long to wait until it is ready, 1s to 1h; it goes on after that.")
    var wait = DurationArgument(.seconds(60))
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard acceptDataLoss else {
            throw ValidationError(
                "what \(to) has not received will be lost: add --accept-data-loss if you are sure, or use switchover")
        }
        guard wait.duration >= .seconds(1), wait.duration <= .seconds(3600) else {
            throw ValidationError("--wait must be 1s to 1h, not \(wait.duration.shortText)")
        }
    }

    func run() async throws {
        let (name, who, why, to, limit) = (order.name, order.who, order.reason, to, wait.duration)
        try await order.run("ready", "") { client in
            let outcome = try await withinTime(limit) {
                try await client.failover(group: name, to: to, acceptsDataLoss: true, actor: who, reason: why)
            }
            guard let outcome else {
                say("ringfence: ordered, and \(to) is not ready yet; it goes on: ringfence group \(name)")
                throw ExitCode.busy
            }
            return outcome
        }
    }
}

struct PauseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Pause automatic election for a while.",
        usage: "ringfence group NAME pause --for DURATION [--reason TEXT]",
        discussion: """
            Leases still end, and a primary whose lease is over still stops: then the group has none until you resume, or \
            order a switchover or failover. A pause that nobody ends ends by itself. Pausing again sets a new end.

            EXAMPLES
              ringfence group ledger pause --for 10m --reason 'network work'
            """)

    @Option(name: .customLong("for"), help: "How long, 1s to 30d.")
    var length: DurationArgument
    @OptionGroup var order: OrderArguments

    func validate() throws {
        guard length.duration >= .seconds(1), length.duration <= .seconds(30 * 86_400) else {
            throw ValidationError("--for must be 1s to 30d, not \(length.duration.shortText)")
        }
    }

    func run() async throws {
        let length = length.duration
        try await order.give("paused", "paused for \(length.shortText)") {
            try await $0.pause(group: $1.name, for: length, actor: $1.who, reason: $1.reason)
        }
    }
}

struct ResumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume",
        abstract: "End a pause.",
        usage: "ringfence group NAME resume",
        discussion: """
            Nothing happens if there is none.

            EXAMPLES
              ringfence group ledger resume
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("resumed") {
            try await $0.resume(group: $1.name, actor: $1.who, reason: $1.reason)
        }
    }
}

struct MaintenanceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "maintenance",
        abstract: "Take a member out of the election, or back into it.",
        usage: "ringfence group NAME maintenance MEMBER on|off [--reason TEXT]",
        discussion: """
            It stays a member, and stays in maintenance over its restarts, until it is put back. The primary is refused: \
            switch over first.

            EXAMPLES
              ringfence group ledger maintenance node-3 on --reason 'disk swap'
              ringfence group ledger maintenance node-3 off
            """)

    enum Switch: String, ExpressibleByArgument, CaseIterable { case on, off }

    @OptionGroup var order: OrderArguments
    @Argument(help: "The member's id.")
    var member: String
    @Argument(help: "on or off.")
    var state: Switch

    func run() async throws {
        let (member, isOn) = (member, state == .on)
        let said = isOn ? "\(member) is in maintenance" : "\(member) is in maintenance no more"
        try await order.give(isOn ? "on" : "off", said) {
            try await $0.setMaintenance(isOn, of: member, group: $1.name, actor: $1.who, reason: $1.reason)
        }
    }
}

struct AcknowledgeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "acknowledge",
        abstract: "Acknowledge repeated failovers and resume automatic election.",
        usage: "ringfence group NAME acknowledge [--reason TEXT]",
        discussion: """
            After too many failovers in a short time (3 in 10 minutes, unless set otherwise) nobody is elected by itself, \
            unless only one candidate can lead: whatever breaks one primary after the other shall not break all.

            EXAMPLES
              ringfence group ledger acknowledge --reason 'bad switch port, fixed'
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("acknowledged") {
            try await $0.acknowledge(group: $1.name, actor: $1.who, reason: $1.reason)
        }
    }
}

struct RemoveGroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove a group that nobody is in.",
        usage: "ringfence group NAME remove [--reason TEXT]",
        discussion: """
            Its name, its ring and its settings go. Its version and epoch are remembered for 30 days and go on if somebody \
            joins again; later on every new group begins above them. Refused while somebody is in it, or may still act as its primary.

            EXAMPLES
              ringfence group ledger-old remove --reason 'moved to ledger'
            """)

    @OptionGroup var order: OrderArguments

    func run() async throws {
        try await order.give("removed") {
            try await $0.removeGroup($1.name, actor: $1.who, reason: $1.reason)
        }
    }
}

struct SettingsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "settings",
        abstract: "Show how the group elects, or change it.",
        usage: "ringfence group NAME settings [--set NAME=VALUE …] [--reason TEXT]",
        discussion: """
            SETTING             DEFAULT   MAY BE
            rank                data      data (who lacks least), priority (zone and priority first)
            maxLag              16777216  who lacks more (of 16 MiB of WAL, say) is not elected; -1: no limit
            lagStep             1         smaller differences of lag do not count
            zone                          members of this zone are preferred
            failback            never     never, manual, automatic
            failbackAfterMs     300000    how long both must have been well before
            drainMs             30000     how long an automatic failback may take
            minStandbys         0         how many should be able to take over
            minStandbysAction   warn      warn, refuseSwitchover, suspendWrites
            brakeCount          3         after so many failovers in brakeWindowMs it is held; 0: never
            brakeWindowMs       600000
            whenAway            fence     fence, hold: a primary without Redis stops, or goes on by its agents' word
            holdMs              600000    for so long at most, and nobody whom it did not know leads before

            EXAMPLES
              ringfence group ledger settings
              ringfence group ledger settings --set maxLag=16777216 --set minStandbys=1
            """)

    @Option(
        name: .customLong("set"), parsing: .singleValue, help: ArgumentHelp("A new value.", valueName: "name=value"))
    var changes: [String] = []
    @OptionGroup var order: OrderArguments

    func validate() throws { _ = try settings() }

    private func settings() throws -> ElectionSettings {
        var stored: [String: String] = [:]
        for change in changes {
            let name = String(change.prefix { $0 != "=" })
            guard name.count < change.count else { throw ValidationError("--set takes NAME=VALUE, not \(change)") }
            guard stored.updateValue(String(change.dropFirst(name.count + 1)), forKey: name) == nil else {
                throw ValidationError("--set \(name) is given twice")
            }
        }
        do { return try ElectionSettings(stored: stored) } catch { throw ValidationError("--set: \(error)") }
    }

    func run() async throws {
        let (name, who, why, settings) = (order.name, order.who, order.reason, try settings())
        let isChange = !changes.isEmpty
        let status = try await order.group.redis.withClient { client in
            if isChange { try await client.changeSettings(settings, group: name, actor: who, reason: why) }
            return try await client.inspectGroup(name)
        }
        guard status.version > 0 else { throw ExitCode.noGroup(name) }
        if order.group.json {
            var json = JSONWriter()
            json.settings(status.settings)
            return try put(namingRedis(json.text))
        }
        let own = Set(status.settings.stored.map(\.name))
        try printTable(
            ["SETTING", "VALUE", ""],
            status.settings.inForce.map { [$0.name, $0.value, own.contains($0.name) ? "" : "(default)"] })
    }
}

struct BreakerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "breaker",
        abstract: "Force the group's circuit breaker open or closed for all clients.",
        usage: "ringfence group NAME breaker open|closed|automatic --reason TEXT",
        discussion: """
            Processes that balance calls over the members stop by themselves when too many fail, each by what it sees. \
            open stops all of them: whoever asks for a member is refused with breaker.open. closed lets all calls through, \
            however many fail. automatic lets each decide again. All obey within a round trip of Redis; one that \
            cannot reach Redis goes on by what it heard last.

            It stays until the next order, over restarts, so do not forget it: ringfence group NAME shows it, and doctor \
            warns of it. Who ordered it and why is in ringfence group NAME history.

            EXAMPLES
              ringfence group card-issuer breaker open --reason 'they answer with wrong balances, ticket 4711'
              ringfence group card-issuer breaker automatic --reason 'mended, ticket 4711'
            """)

    @OptionGroup var order: OrderArguments
    @Argument(
        help: "open, closed or automatic.",
        transform: { text in
            guard let state = BreakerForce(rawValue: text) else {
                throw ValidationError("a breaker is forced open or closed, or left automatic")
            }
            return state
        })
    var state: BreakerForce

    func validate() throws {
        guard !order.reason.isEmpty else {
            throw ValidationError("--reason is missing: whoever finds all calls refused, or none, must be told why")
        }
    }

    func run() async throws {
        let state = state
        let said =
            switch state {
            case .open: "breaker open: nobody calls a member of \(order.name)"
            case .closed: "breaker closed: members of \(order.name) are called, however many calls fail"
            case .automatic: "breaker automatic: each process decides for itself"
            }
        try await order.give(state.rawValue, said) {
            try await $0.forceBreaker(of: $1.name, state, actor: $1.who, reason: $1.reason)
        }
    }
}

/// What `body` gives, or nil when it takes longer. It goes on then, and its outcome is nobody's.
func withinTime<Result: Sendable>(
    _ limit: Duration, _ body: @Sendable @escaping () async throws -> Result
) async throws -> Result? {
    let (stream, continuation) = AsyncStream<Swift.Result<Result, any Error>?>.makeStream()
    let work = Task {
        do { continuation.yield(.success(try await body())) } catch { continuation.yield(.failure(error)) }
    }
    let timer = Task {
        try? await Task.sleep(for: limit)
        continuation.yield(nil)
    }
    defer { timer.cancel() }
    return try await withTaskCancellationHandler {
        for await first in stream { return try first?.get() }
        throw CancellationError()
    } onCancel: {
        work.cancel()
    }
}
