// SPDX-License-Identifier: Apache-2.0
//
// The accountant of the demo. It trusts nothing that the workers say of themselves: from the file alone it computes
// what every balance must be (additions, so their order does not matter), and compares that with the balances in
// Redis and with the journal, to which each application of a transfer added one entry in the same step as it wrote.
// Three findings can be bad, and each is a way in which money goes wrong: a transfer that was never applied, one that
// was applied more than once, and an account whose balance is not what its transfers add up to.

/// What came out of comparing the file, the journal and the balances.
struct Reconciliation: Sendable {
    /// An account with a wrong balance.
    struct WrongAccount: Sendable, Equatable {
        var name: String
        var expected: Int64
        /// nil: the account has no readable balance at all.
        var found: Int64?
    }

    /// Ids in the file that the journal does not have.
    var missing: [String] = []
    /// Ids that the journal has more than once, with how often.
    var repeated: [(id: String, times: Int)] = []
    /// Ids in the journal that are not in the file.
    var unknown: [String] = []
    /// Accounts with a wrong balance, the worst first.
    var wrongAccounts: [WrongAccount] = []
    var totalBefore: Int64 = 0
    var totalAfter: Int64 = 0

    /// Whether every transfer was applied exactly once and every balance is right.
    var isBalanced: Bool {
        missing.isEmpty && repeated.isEmpty && unknown.isEmpty && wrongAccounts.isEmpty && totalBefore == totalAfter
    }

    /// Compares. `balances` holds what Redis has now, `journal` the ids of all applications in any order.
    init(file: TransferFile, opening: Int64, balances: [String: Int64], journal: [String]) {
        var times: [String: Int] = [:]
        for id in journal { times[id, default: 0] += 1 }
        var expected: [String: Int64] = [:]
        for account in file.accounts { expected[account] = opening }
        for transfer in file.transfers {
            expected[transfer.from, default: opening] -= transfer.amount
            expected[transfer.to, default: opening] += transfer.amount
            switch times.removeValue(forKey: transfer.id) {
            case nil: missing.append(transfer.id)
            case .some(let count) where count > 1: repeated.append((transfer.id, count))
            case .some: break
            }
        }
        unknown = times.keys.sorted()
        for account in file.accounts {
            let right = expected[account] ?? opening
            totalBefore += opening
            totalAfter += balances[account] ?? 0
            if balances[account] != right {
                wrongAccounts.append(WrongAccount(name: account, expected: right, found: balances[account]))
            }
        }
        wrongAccounts.sort { ($0.error, $1.name) > ($1.error, $0.name) }
    }

    /// What every account opens with: the smallest power of ten that no account can overdraw, in whatever order the
    /// transfers are applied. So a refusal for want of money, which would depend on the order, never enters the books.
    static func opening(for file: TransferFile) -> Int64 {
        var paid: [String: Int64] = [:]
        for transfer in file.transfers { paid[transfer.from, default: 0] += transfer.amount }
        let most = paid.values.max() ?? 0
        var opening: Int64 = 100_000
        while opening < most { opening *= 10 }
        return opening
    }
}

extension Reconciliation.WrongAccount {
    /// How far off, without sign.
    var error: Int64 { abs((found ?? 0) - expected) }
}
