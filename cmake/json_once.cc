// What json_once.h promises to be somewhere.
#define BH_ONCE
#include "json_once.h"
