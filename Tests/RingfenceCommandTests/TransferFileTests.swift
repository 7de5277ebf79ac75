// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCommand

@Suite struct TransferFileTests {
    private func problem(_ text: String) -> String? {
        do {
            _ = try TransferFile(contents: text.utf8)
            return nil
        } catch {
            return error.description
        }
    }

    @Test func `a file of transfers is read with its accounts in the order they appear`() throws {
        let text = """
            {"id":"t-1","from":"alice","to":"bob","amount":1250,"currency":"EUR","memo":"rent"}
            {"id":"t-2","from":"bob","to":"Zoë","amount":1,"extra":[1,{"a":null}]}\r

            """
        let file = try TransferFile(contents: text.utf8)
        #expect(
            file.transfers == [
                Transfer(id: "t-1", from: "alice", to: "bob", amount: 1250),
                Transfer(id: "t-2", from: "bob", to: "Zoë", amount: 1),
            ])
        #expect(file.accounts == ["alice", "bob", "Zoë"])
    }

    @Test(arguments: [
        ("\"id\":\"\",\"from\":\"a\",\"to\":\"b\",\"amount\":1", "field \"id\" must have 1 to 128 bytes, not 0"),
        ("\"id\":7,\"from\":\"a\",\"to\":\"b\",\"amount\":1", "field \"id\" must be a text, not 7"),
        ("\"from\":\"a\",\"to\":\"b\",\"amount\":1", "field \"id\" is missing"),
        (
            "\"id\":\"x\",\"from\":\"a\",\"to\":\"a\",\"amount\":1",
            "field \"to\" is the same account as \"from\": \"a\""
        ),
        ("\"id\":\"x\",\"from\":\"a\\n\",\"to\":\"b\",\"amount\":1", "field \"from\" must not have control characters"),
        ("\"id\":\"x\",\"from\":null,\"to\":\"b\",\"amount\":1", "field \"from\" must be a text, not null"),
        ("\"id\":\"x\",\"from\":\"a\",\"to\":\"b\"", "field \"amount\" is missing"),
        (
            "\"id\":\"x\",\"from\":\"a\",\"to\":\"b\",\"amount\":1,\"currency\":\"EURO\"",
            "field \"currency\" must have 1 to 3 bytes, not 4"
        ),
    ])
    func `a wrong field is refused by line, name and limit`(fields: String, complaint: String) {
        let good = "{\"id\":\"good\",\"from\":\"a\",\"to\":\"b\",\"amount\":1}"
        #expect(problem("\(good)\n\n{\(fields)}") == "line 3: \(complaint)")
    }

    @Test(arguments: [
        ("0", "0"), ("-5", "-5"), ("1000000000001", "1000000000001"), ("12.5", "12.5"), ("true", "true or false"),
        ("\"12\"", "the text \"12\""), ("[1]", "an object or array"), ("1e30", "1e+30"),
    ])
    func `an amount that is not a whole number of minor units within its limits is refused`(
        amount: String, shown: String
    ) {
        #expect(
            problem("{\"id\":\"x\",\"from\":\"a\",\"to\":\"b\",\"amount\":\(amount)}")
                == "line 1: field \"amount\" must be a whole number of minor units (cents) from 1 to 1000000000000, "
                + "not \(shown)")
    }

    @Test func `an id that was used before is refused with both lines`() {
        let line = "{\"id\":\"x\",\"from\":\"a\",\"to\":\"b\",\"amount\":1}\n"
        #expect(problem(line + line) == "line 2: field \"id\" \"x\" was used in line 1 already: ids are unique")
    }

    @Test func `two currencies in one file are refused`() {
        let euro = "{\"id\":\"x\",\"from\":\"a\",\"to\":\"b\",\"amount\":1,\"currency\":\"EUR\"}\n"
        let dollar = "{\"id\":\"y\",\"from\":\"a\",\"to\":\"b\",\"amount\":1,\"currency\":\"USD\"}\n"
        #expect(problem(euro + dollar) == "line 2: field \"currency\" is USD, but EUR in line 1: one currency a file")
    }

    @Test(arguments: ["{", "[]", "7", "\"text\"", "{\"id\":\"x\"} {"])
    func `a line that is not a JSON object is refused with an example`(line: String) {
        #expect(problem(line)?.hasPrefix("line 1: not a JSON object such as {\"id\"") == true)
    }

    @Test(arguments: ["", "\n \r\n"])
    func `a file without transfers is refused`(text: String) {
        #expect(problem(text) == "the file holds no transfer")
    }

    @Test func `the demo's transfers are the same bytes as ever`() {
        // FNV-1a: figures of a demo can be compared only if every version runs the same day.
        let bytes = Array(TransferGenerator.contents().utf8)
        let digest = bytes.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
        #expect(bytes.count == 2_333_977 && digest == 0xee81d6ef8948056c)
    }

    @Test func `the demo has 20,000 transfers over 500 accounts, a third of them at ten hot ones`() throws {
        let file = try TransferFile(contents: TransferGenerator.contents().utf8)
        #expect(file.transfers.count == 20_000)
        #expect(file.accounts.count == 500)
        var uses: [String: Int] = [:]
        for transfer in file.transfers {
            uses[transfer.from, default: 0] += 1
            uses[transfer.to, default: 0] += 1
        }
        let hot = Set(uses.sorted { $0.value > $1.value }.prefix(10).map(\.key))
        let fought = file.transfers.filter { hot.contains($0.from) || hot.contains($0.to) }.count
        #expect(fought * 3 >= file.transfers.count)
    }
}
