// SPDX-License-Identifier: Apache-2.0
//
// Makes the transfers of the demo: a day of a small payment company. The same seed always makes the same bytes, which a
// test holds by their digest. They are written to a file and read from it as any other, so the executable needs to find
// none beside itself, wherever it is installed. (As an embedded resource, two megabytes become an array literal of two
// million elements for the compiler; as a bundled one, the generated code that finds it links all of Foundation.)
//
// What matters is the shape of the contention: five house accounts and a few popular merchants are one end of a good
// third of the transfers, so locks are truly fought over, while 450 customers hardly meet.

/// A day of transfers, the same for the same seed.
enum TransferGenerator {
    static let shippedCount = 20_000
    static let shippedSeed: UInt64 = 20_261_123

    /// The kinds of payment; weights are in percent.
    private enum Kind: CaseIterable {
        case purchase, fee, refund, payout, topUp, betweenCustomers

        var weight: Int {
            switch self {
            case .purchase: 46
            case .fee: 6
            case .refund: 5
            case .payout: 7
            case .topUp: 8
            case .betweenCustomers: 28
            }
        }
    }

    /// The lines of the file.
    static func contents(count: Int = shippedCount, seed: UInt64 = shippedSeed) -> String {
        var dice = SplitMix64(state: seed)
        var text = ""
        text.reserveCapacity(count * 120)
        for index in 1...count {
            let (from, to, amount, memo) = transfer(&dice)
            text += "{\"id\":\"t-\(padded(index, 5))\",\"from\":\"\(from)\",\"to\":\"\(to)\",\"amount\":\(amount),"
            text += "\"currency\":\"EUR\",\"memo\":\"\(memo)\"}\n"
        }
        return text
    }

    private static func transfer(_ dice: inout SplitMix64) -> (String, String, Int, String) {
        var rest = dice.below(100)
        var kind = Kind.purchase
        for candidate in Kind.allCases {
            kind = candidate
            rest -= candidate.weight
            if rest < 0 { break }
        }
        let number = padded(dice.below(1_000_000), 6)
        switch kind {
        case .purchase: return (customer(&dice), merchant(&dice), 150 + dice.below(19_850), "order \(number)")
        case .fee: return (merchant(&dice), "house-fees", 10 + dice.below(290), "card fee \(number)")
        case .refund: return ("house-refunds", customer(&dice), 150 + dice.below(9_850), "refund of order \(number)")
        case .payout: return (merchant(&dice), "house-settlement", 10_000 + dice.below(90_000), "payout \(number)")
        case .topUp:
            let source = dice.below(4) == 0 ? "house-exchange" : "house-top-up"
            return (source, customer(&dice), 1_000 + dice.below(49_000), "top-up \(number)")
        case .betweenCustomers:
            let from = customer(&dice)
            var to = customer(&dice)
            while to == from { to = customer(&dice) }
            return (from, to, 100 + dice.below(4_900), "to a friend \(number)")
        }
    }

    private static func customer(_ dice: inout SplitMix64) -> String { "customer-\(padded(1 + dice.below(450), 4))" }

    /// A third of what merchants do is done by the first five of the 45.
    private static func merchant(_ dice: inout SplitMix64) -> String {
        "merchant-\(padded(1 + dice.below(dice.below(3) == 0 ? 5 : 45), 4))"
    }

    private static func padded(_ number: Int, _ digits: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
}

/// Sebastiano Vigna's SplitMix64: a fixed sequence for a seed, on every platform and in every Swift version.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but not including, `bound`. Not `Int.random`, whose method may change between versions.
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
