import io.tidegate.Rollback
import io.tidegate.Session

Map call(Map options = [:]) {
    return new Rollback(Session.of(this, 'tidegateRollback', options)).run()
}
