-- Name the installation, unless it has a name.
-- KEYS: installation
-- ARGV: name
-- Returns the name it has
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
