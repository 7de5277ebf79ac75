// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import TestSupport
import Testing

@Suite struct MemberRecordTests {
    private static let whole = MemberRecord(
        id: "node-1", session: "s-1", leaseMilliseconds: 3000, address: "10.0.0.1:7000", zone: "a", weight: 2,
        priority: -5, capabilities: ["ledger", "reports"], metadata: ["build": "7", "a\"b": "\u{1F600} \\ /"])

    private static func text(_ record: MemberRecord) -> String { String(decoding: record.json, as: UTF8.self) }

    @Test func `a record is written in a fixed order, without what is empty`() {
        #expect(
            Self.text(MemberRecord(id: "n", session: "s", leaseMilliseconds: 200))
                == #"{"session":"s","leaseMs":200,"weight":1,"priority":0}"#)
        #expect(
            Self.text(Self.whole)
                == #"{"session":"s-1","leaseMs":3000,"address":"10.0.0.1:7000","zone":"a","weight":2,"priority":-5,"#
                + #""capabilities":["ledger","reports"],"metadata":{"a\"b":"😀 \\ /","build":"7"}}"#)
    }

    @Test func `a record is read back as it was written`() throws {
        #expect(try MemberRecord(id: "node-1", json: Self.whole.json) == Self.whole)
        var random = SplitMix64(seed: 11)
        let texts = ["", "x", "drüben", "a b", "\"q\"", "{}", "é", "e\u{301}"]
        for _ in 0..<300 {
            let record = MemberRecord(
                id: "n", session: "s\(random.pick(0...9))", leaseMilliseconds: random.pick(200...3_600_000),
                address: random.pick(texts), zone: random.pick(texts), weight: Int(random.pick(0...1000)),
                priority: Int(random.pick(-1000...1000)),
                capabilities: random.chance(50) ? [] : ["x", random.pick(texts) + "y"],
                metadata: random.chance(50) ? [:] : ["k": random.pick(texts), "l" + random.pick(texts): "v"])
            let read = try MemberRecord(id: "n", json: record.json)
            #expect(read.json == record.json)
        }
    }

    @Test func `a name that a later version added is passed over`() throws {
        let text =
            #"{"session":"s","leaseMs":3000,"weight":1,"priority":0,"mood":"good","position":{"a":"b"},"n":1.5}"#
        let read = try MemberRecord(id: "n", json: text.utf8)
        #expect(read == MemberRecord(id: "n", session: "s", leaseMilliseconds: 3000))
    }

    @Test(arguments: [
        #"{"leaseMs":3000}"#, #"{"session":7,"leaseMs":3000}"#, #"{"session":"s"}"#, #"{"session":"s","leaseMs":"3"}"#,
        #"{"session":"s","leaseMs":3000,"weight":"1"}"#, #"{"session":"s","leaseMs":3000,"weight":1001}"#,
        #"{"session":"s","leaseMs":3000,"weight":-1}"#, #"{"session":"s","leaseMs":3000,"weight":1e3}"#,
        #"{"session":"s","leaseMs":199}"#, #"{"session":"s","leaseMs":9223372036854775807}"#,
        #"{"session":"s","leaseMs":3000,"zone":null}"#, #"{"session":"s","leaseMs":3000,"capabilities":"x"}"#,
        #"{"session":"s","leaseMs":3000,"capabilities":[1]}"#, #"{"session":"s","leaseMs":3000,"metadata":{"a":1}}"#,
        #"{"session":"s","leaseMs":3000,"metadata":{"é":"1","é":"2"}}"#,
        #"{"session":"s","leaseMs":3000,"metadata":{"a":{"b":"c"}}}"#, #"{"session":"s","session":"t","leaseMs":3000}"#,
        #"{"session":"s","leaseMs":3000}x"#, #"{"session":"s s","leaseMs":3000}"#, "", "[]",
    ])
    func `what is not a record is refused`(text: String) {
        #expect(throws: (any Error).self) { try MemberRecord(id: "n", json: text.utf8) }
    }

    @Test func `each field that is out of its limits is named`() {
        func refused(_ change: (inout MemberRecord) -> Void) -> String? {
            var record = MemberRecord(id: "n", session: "s", leaseMilliseconds: 3000)
            change(&record)
            do { try Limits.check(record) } catch { return error.field }
            return nil
        }
        #expect(refused { $0.id = "" } == "member")
        #expect(refused { $0.id = String(repeating: "x", count: 513) } == "member")
        #expect(refused { $0.session = "a b" } == "session")
        #expect(refused { $0.leaseMilliseconds = 199 } == "lease")
        #expect(refused { $0.leaseMilliseconds = 3_600_001 } == "lease")
        #expect(refused { $0.address = String(repeating: "x", count: 513) } == "address")
        #expect(refused { $0.zone = "a\nb" } == "zone")
        #expect(refused { $0.weight = 1001 } == "weight")
        #expect(refused { $0.weight = -1 } == "weight")
        #expect(refused { $0.priority = -1001 } == "priority")
        #expect(refused { $0.capabilities = Array(repeating: "x", count: 17) } == "capabilities")
        #expect(refused { $0.capabilities = [""] } == "capabilities")
        #expect(refused { $0.metadata = ["": "x"] } == "metadata")
        #expect(refused { $0.metadata = ["k": "\u{7F}"] } == "metadata")
        #expect(
            refused { record in
                for number in 0..<33 { record.metadata["\(number)"] = "" }
            } == "metadata")
        #expect(
            refused { record in
                for number in 0..<9 { record.metadata["\(number)"] = String(repeating: "x", count: 1024) }
            } == "metadata")
        #expect(refused { _ in } == nil)
    }
}

@Suite struct JSONDepthTests {
    @Test func `objects in objects are read as deep as is allowed and no deeper`() throws {
        let text = #"{"a":{"b":{"c":"d","n":-1}},"e":["f"],"t":true}"#
        let object = try JSONObject(text.utf8, allowed: nil, depth: 2)
        guard case .object(let a)? = object["a"], case .object(let b)? = a["b"] else {
            Issue.record("the inner objects are missing")
            return
        }
        #expect(b["c"] == .string("d") && b["n"] == .integer(-1))
        #expect(object["e"] == .strings(["f"]) && object["t"] == .bool(true))
        #expect(throws: JSONError.self) { try JSONObject(text.utf8, allowed: nil, depth: 1) }
        #expect(throws: JSONError.self) { try JSONObject(text.utf8, allowed: nil) }
        #expect(throws: JSONError.self) { try JSONObject(text.utf8, allowed: ["a"], depth: 2) }
    }

    @Test func `an inner object that ends early or has a name twice is refused`() {
        for text in [#"{"a":{"b":"c"}"#, #"{"a":{"b":"c","b":"d"}}"#, #"{"a":{"b" "c"}}"#, #"{"a":{,}}"#, #"{"a":{"#] {
            #expect(throws: JSONError.self) { try JSONObject(text.utf8, allowed: nil, depth: 2) }
        }
    }
}
