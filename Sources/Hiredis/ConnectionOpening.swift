// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOPosix
import NIOSSL

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Opens one channel: name resolution, TCP or unix socket, TLS.
struct ConnectionOpening {
    let configuration: RedisConfiguration
    let eventLoop: any EventLoop

    /// The channel's last handler is made by `makeHandler`, on the event loop.
    func open<Handler: ChannelInboundHandler>(
        _ makeHandler: @escaping @Sendable () -> Handler
    ) -> EventLoopFuture<any Channel> {
        secure().flatMap { [configuration] context in
            let bootstrap = self.bootstrap().channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let context {
                        let handler = try NIOSSLClientHandler(context: context, serverHostname: self.verifiedName)
                        try channel.pipeline.syncOperations.addHandler(handler)
                    }
                    try channel.pipeline.syncOperations.addHandler(makeHandler())
                }
            }
            return switch configuration.address {
            case .tcp(let host, let port): bootstrap.connect(host: host, port: port)
            case .unix(let path): bootstrap.connect(unixDomainSocketPath: path)
            }
        }
    }

    private func bootstrap() -> ClientBootstrap {
        var bootstrap = ClientBootstrap(group: eventLoop).connectTimeout(TimeAmount(configuration.connectTimeout))
        guard case .tcp = configuration.address else { return bootstrap }
        bootstrap = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.socketOption(.so_keepalive), value: 1)
        #if os(Linux)
            // The kernel gives up on bytes the peer does not acknowledge, when the probe would too.
            let userTimeout = ChannelOptions.Types.SocketOption(
                level: .tcp, name: NIOBSDSocket.Option(rawValue: TCP_USER_TIMEOUT))
            let milliseconds = (configuration.probeInterval * 2) / .milliseconds(1)
            bootstrap = bootstrap.channelOption(userTimeout, value: SocketOptionValue(max(1, milliseconds.rounded())))
        #endif
        return bootstrap
    }

    /// Files are read anew at each attempt, so rotated certificates are picked up; off the event loop, for it is slow.
    private func secure() -> EventLoopFuture<NIOSSLContext?> {
        guard let tls = configuration.tls else { return eventLoop.makeSucceededFuture(nil) }
        return NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop) {
            do {
                return try Self.context(tls)
            } catch {
                throw RedisError(
                    .invalidConfiguration, effect: .none, "the TLS files cannot be used (\(tls)): \(error)")
            }
        }
    }

    private static func context(_ tls: RedisConfiguration.TLS) throws -> NIOSSLContext {
        var settings = TLSConfiguration.makeClientConfiguration()
        settings.minimumTLSVersion = .tlsv12
        settings.certificateVerification = .fullVerification
        if let file = tls.authorityFile { settings.trustRoots = .file(file) }
        if let file = tls.certificateFile {
            settings.certificateChain = try NIOSSLCertificate.fromPEMFile(file).map { .certificate($0) }
        }
        if let file = tls.privateKeyFile {
            settings.privateKey = .privateKey(try NIOSSLPrivateKey(file: file, format: .pem))
        }
        return try NIOSSLContext(configuration: settings)
    }

    /// nil for an address: the certificate is then held against the address of the peer itself.
    private var verifiedName: String? {
        if let name = configuration.tls?.serverName { return name }
        guard case .tcp(let host, _) = configuration.address else { return nil }
        return (try? SocketAddress(ipAddress: host, port: 0)) == nil ? host : nil
    }
}
