// SPDX-License-Identifier: Apache-2.0

package import Hiredis

extension RingfenceConfiguration {
    /// The part of it that is the connection's.
    /// - Throws: `invalidConfiguration`, naming what is wrong but never the password.
    package func redisConfiguration() throws(RedisError) -> RedisConfiguration {
        try checkPlace()
        var redis = try RedisConfiguration(
            url: url,
            tls: .init(
                authorityFile: tls.authorityFile, certificateFile: tls.certificateFile,
                privateKeyFile: tls.privateKeyFile, serverName: tls.serverName), passwordFile: passwordFile)
        redis.commandTimeout = commandTimeout
        redis.connectTimeout = connectTimeout
        redis.failsFast = failsFast
        redis.watchInterval = watchInterval
        if let addressMap { redis.addressMap = try AddressMap(addressMap) }
        redis.sentinelUsername = sentinel.username
        redis.sentinelPassword = sentinel.password
        redis.sentinelPasswordFile = sentinel.passwordFile
        redis.sentinelTLS =
            switch sentinel.tls {
            case .same: .same
            case .on: .on
            case .off: .off
            }
        redis.sentinelMajority =
            switch sentinel.majority {
            case .preferred: .preferred
            case .required: .required
            }
        return redis
    }

    /// Checks what the URL does not say.
    private func checkPlace() throws(RedisError) {
        if let watchInterval, !Self.watchRange.contains(watchInterval) {
            throw Self.wrong("watchInterval must be 100 ms to one hour")
        }
        if sentinel.password != nil, sentinel.passwordFile != nil {
            throw Self.wrong("there is a password for the Sentinels (sentinel.password) and a file with it: give one")
        }
        if sentinel.username != nil, sentinel.password == nil, sentinel.passwordFile == nil {
            throw Self.wrong(
                "sentinel.username needs a password: RINGFENCE_SENTINEL_PASSWORD, sentinel.password or a password file")
        }
    }

    private static func wrong(_ message: String) -> RedisError {
        RedisError(.invalidConfiguration, effect: .none, message)
    }
}
