import io.tidegate.Deploy
import io.tidegate.Session

Map call(Map options = [:]) {
    return new Deploy(Session.of(this, 'tidegateDeploy', options)).run()
}
