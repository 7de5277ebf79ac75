// SPDX-License-Identifier: Apache-2.0
//
// What a simulated process keeps of a line it waits in, and of a lock it holds.
import RingfenceCore
import TestSupport

/// One line: a set of names. A waiter whose lock will be held outside the process has one for itself (`solo`).
final class Slot {
    let names: [String]
    let solo: LockMachine.WaiterID?
    var line: LockLine
    /// The newest acquire.
    var asking: (ticket: LockMachine.Ticket, nonce: String, request: SimulatedProcess.Request)?
    var machine: LockMachine { line.machine }

    init(_ names: [String], solo: LockMachine.WaiterID?, ticketsAfter ticket: LockMachine.Ticket) {
        self.names = names
        self.solo = solo
        line = LockLine(ticketsAfter: ticket, isRemote: solo != nil)
    }

    func isUnsent(_ ticket: LockMachine.Ticket) -> Bool { asking?.ticket != ticket || asking!.request.isUnsent }

    func takeBack(_ ticket: LockMachine.Ticket) -> Bool {
        guard isUnsent(ticket) else { return false }
        if asking?.ticket == ticket { asking!.request.isOver = true }
        return true
    }
}

/// A user's hold on a lock, from its delivery to its release.
final class Holding {
    let user: User
    let slot: Slot
    let value: LockValue
    var lease: LeaseMachine

    init(user: User, slot: Slot, value: LockValue, lease: LeaseMachine) {
        self.user = user
        self.slot = slot
        self.value = value
        self.lease = lease
    }
}
