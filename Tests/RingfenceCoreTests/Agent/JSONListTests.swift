// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

struct JSONListTests {
    private static func read(_ text: String, depth: Int = 3) throws -> JSONObject {
        try JSONObject(Array(text.utf8), allowed: nil, depth: depth)
    }

    @Test func `a list of objects is read where objects may lie`() throws {
        let object = try Self.read(#"{"a": [ {"b": "c"}, {"d": {"e": 1}}, {} ], "f": [], "g": ["h"]}"#)
        guard case .objects(let list) = object["a"] else {
            Issue.record("\(object)")
            return
        }
        #expect(list.count == 3)
        #expect(list[0]["b"] == .string("c"))
        #expect(object["f"] == .strings([]))
        #expect(object["g"] == .strings(["h"]))
    }

    @Test(arguments: [
        (#"{"a":[{"b":1}]}"#, 0), (#"{"a":[{"b":[{"c":1}]}]}"#, 1), (#"{"a":[{},"b"]}"#, 3), (#"{"a":["b",{}]}"#, 3),
        (#"{"a":[{}"#, 3), (#"{"a":[{},]}"#, 3), (#"{"a":[{"b":1,"b":2}]}"#, 3), (#"{"a":[[]]}"#, 3),
    ])
    func `what is no such list, or lies too deep, is an error`(text: String, depth: Int) {
        #expect(throws: JSONError.self) { _ = try Self.read(text, depth: depth) }
    }
}
