// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct BreakerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "breaker",
        abstract: "Force the group's circuit breaker open or closed for all clients.",
        usage: "ringfence group breaker NAME open|closed|automatic --reason TEXT",
        discussion: """
            Each client that balances calls over the members opens its own breaker when too many calls fail. open \
            stops all of them: a request for a member fails with breaker.open. closed lets all calls through, however \
            many fail. automatic lets each client decide again. All obey within one round trip of Redis; one that \
            cannot reach Redis keeps the last state it heard of.

            It stays until the next order, across restarts, so do not forget it: ringfence group NAME shows it, and \
            doctor warns of it. Who ordered it and why is in ringfence group history NAME.

            EXAMPLES
              ringfence group breaker card-issuer open --reason 'they answer with wrong balances, ticket 4711'
              ringfence group breaker card-issuer automatic --reason 'mended, ticket 4711'
            """)

    @OptionGroup var order: OrderArguments
    @Argument(
        help: "open, closed or automatic.",
        transform: { text in
            guard let state = BreakerOverride(rawValue: text) else {
                throw ValidationError("must be open, closed or automatic")
            }
            return state
        })
    var state: BreakerOverride

    func validate() throws {
        guard !order.reason.isEmpty else {
            throw ValidationError("--reason is missing: it tells callers why all their calls, or none, are refused")
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
            try await $0.overrideBreaker(state, actor: $1.who, reason: $1.reason)
        }
    }
}
