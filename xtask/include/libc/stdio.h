#pragma once
#include <stddef.h>
typedef struct umrt_file FILE;
