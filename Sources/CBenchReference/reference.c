#include "CBenchReference.h"
