// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCommand

@Suite struct ReconciliationTests {
    private let file: TransferFile
    private let right: [String: Int64] = ["a": 970, "b": 1025, "c": 1005]
    private let journal = ["t-3", "t-1", "t-2"]

    init() throws {
        let text = """
            {"id":"t-1","from":"a","to":"b","amount":20}
            {"id":"t-2","from":"a","to":"c","amount":10}
            {"id":"t-3","from":"c","to":"b","amount":5}
            """
        file = try TransferFile(contents: text.utf8)
    }

    private func books(_ balances: [String: Int64], _ journal: [String]) -> Reconciliation {
        Reconciliation(file: file, opening: 1000, balances: balances, journal: journal)
    }

    @Test func `the books balance when all was applied once, in any order`() {
        let books = books(right, journal)
        #expect(books.isBalanced)
        #expect(books.totalBefore == 3000)
        #expect(books.totalAfter == 3000)
    }

    @Test func `a transfer that was never applied is missed`() {
        let books = books(["a": 980, "b": 1025, "c": 995], ["t-1", "t-3"])
        #expect(!books.isBalanced)
        #expect(books.missing == ["t-2"])
        #expect(books.totalAfter == books.totalBefore)
    }

    @Test func `a transfer that was applied twice is found, although the total is right`() {
        let books = books(["a": 950, "b": 1045, "c": 1005], journal + ["t-1"])
        #expect(!books.isBalanced)
        #expect(books.repeated.map(\.id) == ["t-1"])
        #expect(books.repeated.map(\.times) == [2])
        #expect(books.totalAfter == books.totalBefore)
    }

    @Test func `a lost update is found, although the journal is right`() {
        let books = books(["a": 970, "b": 1005, "c": 1005], journal)
        #expect(!books.isBalanced)
        #expect(books.wrongAccounts == [.init(name: "b", expected: 1025, found: 1005)])
        #expect(books.totalAfter == 2980)
    }

    @Test func `two wrong balances that cancel out are found`() {
        let books = books(["a": 971, "b": 1024, "c": 1005], journal)
        #expect(!books.isBalanced)
        #expect(books.totalAfter == books.totalBefore)
        #expect(books.wrongAccounts.map(\.name) == ["a", "b"])
    }

    @Test func `a balance that is gone and a transfer nobody ordered are found`() {
        var balances = right
        balances["c"] = nil
        let books = books(balances, journal + ["t-9"])
        #expect(!books.isBalanced)
        #expect(books.unknown == ["t-9"])
        #expect(books.wrongAccounts == [.init(name: "c", expected: 1005, found: nil)])
    }

    @Test func `no account can be overdrawn in any order`() throws {
        let big = try TransferFile(
            contents: """
                {"id":"t-1","from":"a","to":"b","amount":900000}
                {"id":"t-2","from":"a","to":"b","amount":900000}
                """.utf8)
        #expect(Reconciliation.opening(for: big) == 10_000_000)
        #expect(Reconciliation.opening(for: file) == 100_000)
    }
}
