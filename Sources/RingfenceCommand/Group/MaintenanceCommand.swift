// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct MaintenanceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "maintenance",
        abstract: "Take a member out of the election, or back into it.",
        usage: "ringfence group maintenance NAME MEMBER on|off [--reason TEXT]",
        discussion: """
            It stays a member, and stays in maintenance across restarts until it is put back. The primary is refused: \
            switch over first.

            EXAMPLES
              ringfence group maintenance ledger node-3 on --reason 'disk swap'
              ringfence group maintenance ledger node-3 off
            """)

    enum Switch: String, ExpressibleByArgument, CaseIterable { case on, off }

    @OptionGroup var order: OrderArguments
    @Argument(help: "The member's id.")
    var member: String
    @Argument(help: "on or off.")
    var state: Switch

    func run() async throws {
        let (member, isOn) = (member, state == .on)
        let said = isOn ? "\(member) is in maintenance" : "\(member) is out of maintenance"
        try await order.give(isOn ? "on" : "off", said) {
            try await $0.setMaintenance(isOn, for: member, actor: $1.who, reason: $1.reason)
        }
    }
}
