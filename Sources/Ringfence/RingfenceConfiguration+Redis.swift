// SPDX-License-Identifier: Apache-2.0

package import Hiredis

extension RingfenceConfiguration {
    /// The part of it that is the connection's.
    /// - Throws: `invalidConfiguration`, naming what is wrong but never the password.
    package func redisConfiguration() throws(RedisError) -> RedisConfiguration {
        var redis = try RedisConfiguration(
            url: url,
            tls: .init(
                authorityFile: tls.authorityFile, certificateFile: tls.certificateFile,
                privateKeyFile: tls.privateKeyFile, serverName: tls.serverName), passwordFile: passwordFile)
        redis.commandTimeout = commandTimeout
        redis.connectTimeout = connectTimeout
        redis.failsFast = failsFast
        return redis
    }
}
