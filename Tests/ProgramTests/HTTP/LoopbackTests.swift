// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceHTTP

@Suite struct LoopbackTests {
    @Test(arguments: ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    func `loopback is known`(host: String) { #expect(Serve.isLoopback(host)) }

    @Test(arguments: ["0.0.0.0", "::", "", "127.0.0.1.evil.com", "127", "127.0.0.256", "10.0.0.1"])
    func `everything else is not loopback`(host: String) { #expect(!Serve.isLoopback(host)) }
}
