def test_x(database, account):
    from core.services.accounts import authenticates
    assert authenticates(database, account.account_id, account.api_key)
    assert not authenticates(database, account.account_id, "x")
