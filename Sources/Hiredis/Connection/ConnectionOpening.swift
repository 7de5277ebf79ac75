// SPDX-License-Identifier: Apache-2.0
import NIOCore
import NIOPosix
import NIOSSL
import RingfencePlatform

/// Opens one channel: name resolution, TCP or unix socket, TLS.
struct ConnectionOpening {
    let configuration: RedisConfiguration
    let route: Route
    let eventLoop: any EventLoop

    /// The channel's last handler is made by `makeHandler`, on the event loop, with the password that is in force now.
    func open<Handler: ChannelInboundHandler>(
        _ makeHandler: @escaping @Sendable (_ password: String?) -> Handler
    ) -> EventLoopFuture<any Channel> {
        read().flatMap { [route] files in
            let bootstrap = self.bootstrap().channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let context = files.context {
                        try channel.pipeline.syncOperations.addHandler(self.secured(context))
                    }
                    try channel.pipeline.syncOperations.addHandler(makeHandler(files.password))
                }
            }
            return switch route.address {
            case .tcp(let host, let port): bootstrap.connect(host: host, port: port)
            case .unix(let path): bootstrap.connect(unixDomainSocketPath: path)
            }
        }
    }

    private func secured(_ context: NIOSSLContext) throws -> NIOSSLClientHandler {
        guard let identity else { throw RedisError(.invalidConfiguration, effect: .none, "TLS needs a host to verify") }
        let words = ConnectionWords(address: route.shown)
        let name: String? = if case .name(let name) = identity { name } else { nil }
        do {
            return try NIOSSLClientHandler._makeSSLClientHandler(context: context, serverHostname: name) {
                certificate, channel in
                guard identity.isIdentified(by: certificate) else {
                    return channel.eventLoop.makeFailedFuture(words.wrongCertificate(identity))
                }
                return channel.eventLoop.makeSucceededVoidFuture()
            }
        } catch {
            throw RedisError(
                .invalidConfiguration, effect: .none, "\(name ?? "") is no name that TLS can verify")
        }
    }

    private func bootstrap() -> ClientBootstrap {
        var bootstrap = ClientBootstrap(group: eventLoop).connectTimeout(TimeAmount(configuration.connectTimeout))
        guard case .tcp = route.address else { return bootstrap }
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

    private struct Files: Sendable {
        var context: NIOSSLContext?
        var password: String?
    }

    /// Files are read anew at each attempt, so rotated certificates and passwords are picked up; off the event loop,
    /// for it is slow.
    private func read() -> EventLoopFuture<Files> {
        guard configuration.tls != nil || configuration.passwordFile != nil else {
            return eventLoop.makeSucceededFuture(Files(password: configuration.password))
        }
        return NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop) { [configuration, identity] in
            var files = Files(password: configuration.password)
            if let tls = configuration.tls {
                files.context = try Self.context(tls, identity)
            }
            if let path = configuration.passwordFile { files.password = try PasswordFile.read(path) }
            return files
        }
    }

    private static func context(_ tls: RedisConfiguration.TLS, _ identity: ServerIdentity?) throws -> NIOSSLContext {
        var settings = TLSConfiguration.makeClientConfiguration()
        settings.minimumTLSVersion = .tlsv12
        // The chain always; the name by NIOSSL and by us, an address by us.
        if case .address = identity {
            settings.certificateVerification = .noHostnameVerification
        } else {
            settings.certificateVerification = .fullVerification
        }
        if let file = tls.authorityFile { settings.trustRoots = .file(file) }
        if let file = tls.certificateFile {
            settings.certificateChain = try using(file, "a certificate") {
                try NIOSSLCertificate.fromPEMFile(file).map { .certificate($0) }
            }
        }
        if let file = tls.privateKeyFile {
            settings.privateKey = .privateKey(
                try using(file, "a private key") { try NIOSSLPrivateKey(file: file, format: .pem) })
        }
        do { return try NIOSSLContext(configuration: settings) } catch {
            if let file = tls.authorityFile {
                _ = try using(file, "certificates of authorities") { try NIOSSLCertificate.fromPEMFile(file) }
            }
            guard let key = tls.privateKeyFile, let certificate = tls.certificateFile else {
                throw RedisError(.invalidConfiguration, effect: .none, "TLS cannot be set up: \(error)")
            }
            throw RedisError(
                .invalidConfiguration, effect: .none, "\(key) is not the private key of the certificate \(certificate)")
        }
    }

    /// - Throws: `invalidConfiguration`, which names the file and what it should hold.
    private static func using<Result>(_ file: String, _ what: String, _ load: () throws -> Result) throws -> Result {
        do { return try load() } catch {
            let reason =
                access(file, R_OK) == 0 ? "it does not hold \(what) in PEM" : String(cString: strerror(errno))
            throw RedisError(.invalidConfiguration, effect: .none, "the TLS file \(file) cannot be used: \(reason)")
        }
    }

    /// nil for a unix socket.
    private var identity: ServerIdentity? {
        if let name = configuration.tls?.serverName { return ServerIdentity(name) }
        guard case .tcp(let host, _) = route.address else { return nil }
        return ServerIdentity(route.name ?? host)
    }
}
