// SPDX-License-Identifier: Apache-2.0
package import NIOCore
import NIOPosix
import RingfencePlatform

/// All addresses of a name, by the system's resolver. It blocks, for seconds where there is no name server, so it runs
/// on a thread of its own.
enum NameLookup {
    static func addresses(
        of host: String, port: Int, on eventLoop: any EventLoop
    ) -> EventLoopFuture<[RedisConfiguration.Address]> {
        NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop) { try addresses(of: host, port: port) }
    }

    private static func addresses(of host: String, port: Int) throws -> [RedisConfiguration.Address] {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_protocol = Int32(IPPROTO_TCP)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, nil, &hints, &list)
        defer { if let list { freeaddrinfo(list) } }
        guard code == 0 else {
            let why = gai_strerror(code).map { " (\(String(cString: $0)))" } ?? ""
            throw RedisError(
                .connectFailed, effect: .none, "the name \(host) is not found\(why)", fault: .nameNotFound)
        }
        var found: [RedisConfiguration.Address] = []
        var next = list
        while let entry = next {
            next = entry.pointee.ai_next
            var text = [CChar](repeating: 0, count: 1025)
            let status = getnameinfo(
                entry.pointee.ai_addr, entry.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST)
            guard status == 0 else { continue }
            let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
            let address = RedisConfiguration.Address.tcp(host: String(decoding: bytes, as: UTF8.self), port: port)
            if !found.contains(address) { found.append(address) }
        }
        guard !found.isEmpty else {
            throw RedisError(
                .connectFailed, effect: .none, "the name \(host) has no address", fault: .nameNotFound)
        }
        return found
    }
}

extension RedisConfiguration.Address {
    /// It has to be looked up before it can be dialled.
    var isName: Bool {
        guard case .tcp(let host, _) = self, case .name = ServerIdentity(host) else { return false }
        return true
    }

    /// All addresses of a name; none of what needs not to be looked up.
    package func addresses(on eventLoop: any EventLoop) async throws -> [Self] {
        guard isName, case .tcp(let host, let port) = self else { return [] }
        return try await NameLookup.addresses(of: host, port: port, on: eventLoop).get()
    }
}
