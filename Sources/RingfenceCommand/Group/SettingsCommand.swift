// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Ringfence
import RingfenceConsole
import RingfenceOperations

struct SettingsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "settings",
        abstract: "Show how the group elects, or change it.",
        usage: "ringfence group settings NAME [--set NAME=VALUE …] [--reason TEXT]",
        discussion: """
            SETTING            DEFAULT   VALUES
            rank               data      data: least lag first; priority: zone first
            maxLag             16777216  largest lag of a new primary; -1: no limit
            lagStep            1         smallest difference of lag that counts
            zone                         the preferred zone
            failback           never     never, manual, automatic
            failbackAfterMs    300000    how long both must have been healthy before
            handoverTimeoutMs  30000     time limit of an automatic failback
            minStandbys        0         smallest number of members able to take over
            minStandbysAction  warn      warn, refuseSwitchover, suspendWrites
            brakeCount         3         failovers that put the brake on; 0: never
            brakeWindowMs      600000    within this time
            onCoordinatorLoss  demote    demote, failsafe: without Redis stop, or go on
            failsafeLimitMs    600000    longest time a primary may run without Redis;
                                         new candidates are not elected before it ends

            EXAMPLES
              ringfence group settings ledger
              ringfence group settings ledger --set maxLag=16777216 --set minStandbys=1
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
        let (who, why, settings) = (order.who, order.reason, try settings())
        let isChange = !changes.isEmpty
        let status = try await order.group.withOperations { group in
            if isChange { try await group.update(settings, actor: who, reason: why) }
            return try await group.status().known()
        }
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
