// SPDX-License-Identifier: Apache-2.0
//
// What the demo moves, and the file it is read from: JSON lines, one transfer each. The file may be the user's own, so
// every field is checked before anything runs, and a complaint names the line, the field and the limit. The fields are
// taken from a loose dictionary rather than by a synthesized `Decodable`, whose errors speak of coding paths.

import FoundationEssentials

/// One transfer of money between two accounts.
struct Transfer: Sendable, Equatable {
    /// Unique in its file; what "exactly once" is counted by.
    var id: String
    /// The account that pays.
    var from: String
    /// The account that is paid.
    var to: String
    /// In minor units (cents), at least 1.
    var amount: Int64

    static let maximumAmount: Int64 = 1_000_000_000_000
    static let maximumNameBytes = 128
}

/// A file of transfers, read and found good.
struct TransferFile: Sendable {
    var transfers: [Transfer]
    /// All accounts, in the order in which the file first names them.
    var accounts: [String]

    static let maximumBytes = 64 << 20
    static let maximumTransfers = 200_000

    /// Why a file was refused, in words for its author.
    struct Problem: Error, Equatable, CustomStringConvertible {
        var line: Int?
        var message: String
        var description: String { line.map { "line \($0): \(message)" } ?? message }
    }

    /// Reads transfers from the contents of a file. Empty lines are passed over; anything else wrong is a `Problem`.
    init(contents: some Collection<UInt8>) throws(Problem) {
        guard contents.count <= Self.maximumBytes else {
            throw Problem(message: "the file has \(contents.count) bytes; the limit is \(Self.maximumBytes)")
        }
        var transfers: [Transfer] = []
        var accounts: [String] = []
        var knownAccounts: Set<String> = []
        var lineOfID: [String: Int] = [:]
        var currency: (text: String, line: Int)?
        var number = 0
        for line in contents.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            number += 1
            if line.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) { continue }
            let fields = try Fields(line: line, number: number)
            let transfer = try fields.transfer()
            if let first = lineOfID.updateValue(number, forKey: transfer.id) {
                throw fields.problem("id", "\"\(transfer.id)\" was used in line \(first) already: ids are unique")
            }
            if let text = try fields.text("currency", maximum: 3, required: false) {
                if let known = currency, known.text != text {
                    throw fields.problem(
                        "currency", "is \(text), but \(known.text) in line \(known.line): one currency a file")
                }
                currency = currency ?? (text, number)
            }
            guard transfers.count < Self.maximumTransfers else {
                throw Problem(line: number, message: "more than \(Self.maximumTransfers) transfers")
            }
            transfers.append(transfer)
            for account in [transfer.from, transfer.to] where knownAccounts.insert(account).inserted {
                accounts.append(account)
            }
        }
        guard !transfers.isEmpty else { throw Problem(message: "the file holds no transfer") }
        self.transfers = transfers
        self.accounts = accounts
    }
}

/// The fields of one line, not yet trusted.
private struct Fields {
    /// What a JSON value may be here; everything but texts and whole numbers is only named, for the complaint.
    enum Value: Decodable {
        case text(String)
        case integer(Int64)
        case other(String)

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .text(text)
            } else if (try? container.decode(Bool.self)) != nil {
                self = .other("true or false")
            } else if let integer = try? container.decode(Int64.self) {
                self = .integer(integer)
            } else if let number = try? container.decode(Double.self) {
                self = .other("\(number)")
            } else {
                self = .other(container.decodeNil() ? "null" : "an object or array")
            }
        }
    }

    let number: Int
    let values: [String: Value]

    init(line: some Collection<UInt8>, number: Int) throws(TransferFile.Problem) {
        self.number = number
        do {
            values = try JSONDecoder().decode([String: Value].self, from: Data(line))
        } catch {
            throw TransferFile.Problem(
                line: number,
                message: "not a JSON object such as {\"id\":\"t-1\",\"from\":\"alice\",\"to\":\"bob\",\"amount\":1250}")
        }
    }

    func problem(_ field: String, _ message: String) -> TransferFile.Problem {
        TransferFile.Problem(line: number, message: "field \"\(field)\" \(message)")
    }

    func transfer() throws(TransferFile.Problem) -> Transfer {
        let from = try text("from", maximum: Transfer.maximumNameBytes, required: true) ?? ""
        let to = try text("to", maximum: Transfer.maximumNameBytes, required: true) ?? ""
        guard from != to else { throw problem("to", "is the same account as \"from\": \"\(to)\"") }
        return Transfer(
            id: try text("id", maximum: Transfer.maximumNameBytes, required: true) ?? "",
            from: from, to: to, amount: try amount())
    }

    func text(_ field: String, maximum: Int, required: Bool) throws(TransferFile.Problem) -> String? {
        switch values[field] {
        case .text(let text):
            guard (1...maximum).contains(text.utf8.count) else {
                throw problem(field, "must have 1 to \(maximum) bytes, not \(text.utf8.count)")
            }
            guard !text.unicodeScalars.contains(where: { $0.value < 0x20 || (0x7F...0x9F).contains($0.value) }) else {
                throw problem(field, "must not have control characters")
            }
            return text
        case .integer(let integer): throw problem(field, "must be a text, not \(integer)")
        case .other(let kind): throw problem(field, "must be a text, not \(kind)")
        case nil:
            if required { throw problem(field, "is missing") }
            return nil
        }
    }

    func amount() throws(TransferFile.Problem) -> Int64 {
        let expected = "must be a whole number of minor units (cents) from 1 to \(Transfer.maximumAmount)"
        switch values["amount"] {
        case .integer(let amount):
            guard (1...Transfer.maximumAmount).contains(amount) else {
                throw problem("amount", "\(expected), not \(amount)")
            }
            return amount
        case .text(let text): throw problem("amount", "\(expected), not the text \"\(text.prefix(40))\"")
        case .other(let kind): throw problem("amount", "\(expected), not \(kind)")
        case nil: throw problem("amount", "is missing")
        }
    }
}
