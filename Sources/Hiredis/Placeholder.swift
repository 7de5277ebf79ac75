import CHiredis
import Logging
import NIOCore
import NIOPosix
import NIOSSL
