// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCommand

@Suite struct HealthArgumentsTests {
    private func arguments(_ words: String...) -> [String]? {
        HealthCommand.argumentsOfServe(in: words.flatMap { Array($0.utf8) + [0] })
    }

    @Test func `the flags of serve are found in the command line of process 1, behind an init too`() {
        #expect(arguments("ringfence", "serve") == [])
        #expect(arguments("/usr/local/bin/ringfence", "serve", "--port", "8000") == ["--port", "8000"])
        #expect(arguments("/sbin/docker-init", "--", "ringfence", "serve", "--owner", "") == ["--owner", ""])
    }

    @Test func `a process 1 that is no serve has none`() {
        #expect(arguments("/sbin/init") == nil)
        #expect(arguments("ringfence", "agent", "--config", "serve") == nil)
        #expect(arguments("ringfence") == nil)
        #expect(HealthCommand.argumentsOfServe(in: []) == nil)
    }
}
