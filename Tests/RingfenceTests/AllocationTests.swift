// SPDX-License-Identifier: Apache-2.0
import TestSupport
import Testing

@Suite struct AllocationTests {
    @Test func `a hundred thousand lookups and preference lists allocate nothing`() async throws {
        try await expectNone("ring", of: 6)
    }

    @Test func `a hundred thousand picks by each policy allocate nothing`() async throws {
        try await expectNone("balancer", of: 8)
    }

    private func expectNone(_ part: String, of kinds: Int) async throws {
        let process = try TalkingProcess.start("Allocations", [part])
        var counts: [String: Int] = [:]
        while let line = try await process.line() {
            let words = line.split(separator: " ")
            counts[String(words[0])] = Int(words[1])
        }
        try await process.end()
        // Where malloc cannot be counted, the program says -1.
        guard let control = counts.removeValue(forKey: "array"), control >= 0 else { return }
        #expect(control >= 100_000, "the control allocates, and it was not seen")
        #expect(counts.count == kinds)
        for (name, count) in counts { #expect(count == 0, "\(name)") }
    }
}
